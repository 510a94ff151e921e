"""Laws of class numbers and stratified splits."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from datadistill.data.raw import carve
from datadistill.data.split import check_classes, check_fractions, class_numbers, stratified
from datadistill.errors import BadInput, UsageError

labels = st.lists(st.integers(-1, 5), min_size=1, max_size=200).map(lambda v: np.array([*v, 0]))


@settings(max_examples=150, deadline=None)
@given(labels, st.floats(0, 0.5), st.floats(0, 0.45), st.integers(0, 5))
def test_every_labelled_item_is_in_exactly_one_part(y, test, val, seed):
    parts = stratified(y, {"test": test, "val": val}, seed)
    everything = np.concatenate(list(parts.values()))
    assert sorted(everything.tolist()) == np.flatnonzero(y >= 0).tolist()
    assert all((np.diff(part) > 0).all() for part in parts.values())


@settings(max_examples=150, deadline=None)
@given(labels, st.floats(0.01, 0.5), st.integers(0, 5))
def test_shares_are_proportional_and_nobody_gives_the_last_item(y, fraction, seed):
    parts = stratified(y, {"test": fraction}, seed)
    counts, taken = (np.bincount(v, minlength=6) for v in (y[y >= 0], y[parts["test"]]))
    assert ((counts == 0) | (counts - taken >= 1)).all()
    spare = int(np.maximum(counts - 1, 0).sum())
    assert len(parts["test"]) == min(max(1, round(fraction * counts.sum())), spare)
    if (counts[counts > 0] >= 10).all():
        assert (np.abs(taken - fraction * counts) < 2).all()


def test_a_class_of_one_stays_in_train():
    y = np.array([0] * 50 + [1])
    for seed in range(20):
        assert 50 in stratified(y, {"test": 0.4, "val": 0.3}, seed)["train"]


def test_many_small_classes_still_give_a_validation_split():
    y = np.repeat(np.arange(100), 4)
    parts = stratified(y, {"test": 0.2, "val": 0.1}, 0)
    assert (len(parts["test"]), len(parts["val"])) == (80, 40)


def test_the_seed_decides_and_class_order_of_items_does_not_matter_for_sizes():
    y = np.repeat([0, 1, 2], 40)
    one, again, other = (stratified(y, {"test": 0.2}, s)["test"] for s in (0, 0, 1))
    assert np.array_equal(one, again) and not np.array_equal(one, other)


def test_fractions_that_leave_nothing_are_refused():
    for val, test in ((0.5, 0.5), (-0.1, 0.2), (0.1, 1.0)):
        with pytest.raises(UsageError):
            check_fractions(val, test)


def test_carving_moves_every_row_to_its_group():
    """Rows of a MiB each, so that the move in place takes several pieces."""
    array = np.repeat(np.arange(20, dtype=np.uint8)[:, None], 1 << 20, axis=1)
    first = np.array([1, 2, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 17, 18, 19])
    rest = [np.array([0, 3, 16]), np.array([4, 8])]
    parts = carve(array, [first, *rest])
    for part, rows in zip(parts, [first, *rest], strict=True):
        assert part.shape == (len(rows), 1 << 20) and (part == rows[:, None]).all()
    assert parts[0].base is None, "the memory of the other rows is handed back"


# -- class names -------------------------------------------------------------------------------------------------------


def text(*values):
    return np.array(values, dtype=object)


def test_numbers_sort_by_value_and_names_by_letter():
    assert class_numbers({"train": np.array([10, 9, 2])})[0] == ("2", "9", "10")
    assert class_numbers({"train": text("10", "9", "2")})[0] == ("2", "9", "10")
    assert class_numbers({"train": text("b", "10", "a", "9")})[0] == ("10", "9", "a", "b")
    assert class_numbers({"train": np.array([-1, 1, -1])})[0] == ("-1", "1")


def test_one_class_written_in_several_ways_is_one_class():
    names, numbers = class_numbers({"train": np.array([0.0, 1.0, 0.0]), "test": np.array([1, 0])})
    assert names == ("0", "1") and numbers["train"].tolist() == [0, 1, 0] and numbers["test"].tolist() == [1, 0]


@pytest.mark.parametrize("values", [text("a", None, "b"), np.array([0.0, np.nan, 1.0])])
def test_a_missing_label_has_no_class(values):
    names, numbers = class_numbers({"train": values})
    assert len(names) == 2 and numbers["train"].tolist() == [0, -1, 1]


def test_bytes_and_truth_values_are_labels():
    assert class_numbers({"train": np.array([b"caf\xc3\xa9", b"\xff"])})[0] == ("café", "\udcff")
    assert class_numbers({"train": np.array([True, False])})[0] == ("False", "True")


def test_declared_names_keep_their_order_and_their_range():
    names, numbers = class_numbers({"train": np.array([1, 0, -1])}, ("z", "a"))
    assert names == ("z", "a") and numbers["train"].tolist() == [1, 0, -1]
    with pytest.raises(BadInput, match="label 2"):
        class_numbers({"train": np.array([2])}, ("z", "a"))


def test_measurements_are_no_classes():
    with pytest.raises(BadInput, match="1,000 different values"):
        class_numbers({"train": np.random.default_rng(0).normal(size=1000)})


def test_a_class_without_items_is_named():
    with pytest.raises(BadInput, match=r"\\x1b\[31mcat") as error:
        check_classes(("\x1b[31mcat", "dog"), np.array([1, 1]))
    assert error.value.exit_code == 4


def test_a_single_class_is_refused():
    with pytest.raises(BadInput, match="two classes"):
        check_classes(("dog",), np.array([0]))
