"""Tables: what a column holds is decided by the training split; missing, unknown and useless cells are told apart."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings

from datadistill.data import Unreadable, load
from datadistill.errors import BadInput, Resources, UsageError

N = 60


def frame(n: int = N, seed: int = 0) -> pd.DataFrame:
    """Every kind of column."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            "age": rng.integers(18, 90, n),
            "weight": np.round(rng.normal(70, 10, n), 3),
            "colour": rng.choice(["red", "green", "blue"], n),
            "member": rng.random(n) < 0.5,
            "joined": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 900, n), unit="D"),
            "class": np.array(["no", "yes"])[np.arange(n) % 2],
        }
    )
    table["gappy"] = table["weight"].where(rng.random(n) > 0.2)
    return table


def write(table: pd.DataFrame, path):
    if path.suffix == ".parquet":
        table.to_parquet(path, index=False)
    else:
        table.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    return path


def columns(data) -> dict[str, dict]:
    return {c["name"]: c for c in data.train.modality.spec.facts["columns"]}


def cells(data) -> dict[str, list]:
    """The rows of all splits as a person reads them, in no order."""
    modality = data.train.modality
    stored = torch.cat([r.stored for r in (data.train, data.val, data.test)])
    return modality.columns(stored, plain=True)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_every_kind_of_column_in_every_kind_of_file(tmp_path, suffix):
    table = frame()
    data = load(write(table, tmp_path / f"t{suffix}"), label="class")
    assert data.found.modality == "tabular" and data.found.kind == ("parquet" if suffix == ".parquet" else "csv")
    assert data.found.classes == ("no", "yes") and data.found.shape == (6,) and data.found.dtype == "float32"
    assert data.found.modes == {"integer column": 1, "number column": 2, "category column": 2, "date column": 1}
    described = columns(data)
    assert described["age"]["integer"] and not described["weight"]["integer"]
    assert described["colour"]["values"] == ["blue", "green", "red"]
    assert described["gappy"]["gaps"] and not described["weight"]["gaps"]
    read = cells(data)
    assert sorted(read["age"]) == sorted(table["age"])
    assert np.allclose(sorted(read["weight"]), sorted(table["weight"]))
    assert sorted(read["colour"]) == sorted(table["colour"])
    assert sum(v is None for v in read["gappy"]) == int(table["gappy"].isna().sum()) > 0
    assert sorted(v.lower() for v in read["member"]) == sorted(str(v).lower() for v in table["member"])
    assert sorted(read["joined"]) == sorted(table["joined"].dt.strftime("%Y-%m-%d" if described["joined"]["integer"] else "%Y-%m-%d %H:%M:%S"))


def test_rows_and_labels_stay_together(tmp_path):
    table = pd.DataFrame({"x": np.random.default_rng(0).permutation(200), "y": 0})
    table["y"] = table["x"] % 3
    data = load(write(table, tmp_path / "t.csv"), label="y")
    for real in (data.train, data.val, data.test):
        assert torch.equal(real.stored[:, 0].long() % 3, real.labels)


def test_a_folder_of_splits(tmp_path):
    for name, n in (("train.csv", 50), ("test.csv", 20), ("validation.csv", 10)):
        write(frame(n), tmp_path / name)
    (tmp_path / "README.md").write_text("about")
    found = load(tmp_path, label="class").found
    assert found.split["made"] == {} and {s: sum(c.values()) for s, c in found.counts.items()} == {"train": 50, "val": 10, "test": 20}


def test_files_of_one_split_are_joined(tmp_path):
    for k in range(3):
        write(frame(30, k), tmp_path / f"train-0000{k}-of-00003.parquet")
    assert sum(sum(c.values()) for c in load(tmp_path, label="class").found.counts.values()) == 90


def test_the_label_must_be_named_and_exist(tmp_path):
    path = write(frame(), tmp_path / "t.csv")
    with pytest.raises(UsageError, match="age, weight, colour") as error:
        load(path)
    assert error.value.exit_code == 2 and "--label" in error.value.fix
    with pytest.raises(UsageError, match="no column 'klass'") as error:
        load(path, label="klass")
    assert "age, weight" in error.value.expected


# -- missing and unknown -----------------------------------------------------------------------------------------------


def test_the_index_that_pandas_writes_is_no_column(tmp_path):
    frame = pd.DataFrame({"a": [0.5, 1.5, 2.5] * 8, "kind": ["p", "q"] * 12}, index=[k // 2 for k in range(24)])
    frame.to_parquet(tmp_path / "set.parquet")
    assert load(tmp_path / "set.parquet", label="kind").train.modality.spec.shape == (1,)
    with pytest.raises(UsageError, match="Fix: --label kind"):
        load(tmp_path / "set.parquet")


@pytest.mark.parametrize("token", ["", "?", "NA", "nan", "NULL", " ? ", "#N/A"])
def test_missing_by_any_name(tmp_path, token):
    lines = ["n,c,y"] + [f"{k if k % 5 else token},{'ab'[k % 2] if k % 7 else token},{k % 2}" for k in range(1, 71)]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    data = load(tmp_path / "t.csv", label="y")
    described = columns(data)
    assert described["n"]["integer"] and described["n"]["gaps"] and described["c"]["values"] == ["a", "b"]
    read = cells(data)
    assert sum(v is None for v in read["n"]) == 14 and sum(v is None for v in read["c"]) == 10


def test_a_question_mark_in_a_typed_file_is_missing_too(tmp_path):
    table = pd.DataFrame({"n": ["1.5", "?", "3"] * 20, "c": ["x", "?", "z"] * 20, "y": [0, 1, 1] * 20})
    data = load(write(table, tmp_path / "t.parquet"), label="y")
    assert columns(data)["n"]["gaps"] and "values" not in columns(data)["n"] and columns(data)["c"]["values"] == ["x", "z"]


def test_columns_are_decided_by_train_alone(tmp_path):
    """A value, a gap or a number that only the test split has: missing there, and no trace of it in the spec."""
    train = pd.DataFrame({"n": list(range(5, 45)), "c": ["a", "b"] * 20, "y": [0, 1] * 20})
    write(train, tmp_path / "train.csv")
    base = load(tmp_path, label="y", seed=1).train.modality.spec
    test = pd.DataFrame({"n": ["7", "oops", "1000000"], "c": ["a", "zebra", None], "y": [0, 1, 1]})
    write(test, tmp_path / "test.csv")
    data = load(tmp_path, label="y", seed=1, val=0.1)
    again = load(tmp_path, label="y", seed=1, val=0.1)
    assert data.test.stored[:, 1].tolist() == [0.0, -1.0, -1.0]
    assert data.test.stored[[0, 2], 0].tolist() == [7.0, 1e6] and data.test.stored[1, 0].isnan()
    assert columns(data)["c"]["values"] == ["a", "b"] and columns(data)["n"]["high"] < 45
    assert data.train.read(torch.arange(3)).isfinite().all() and data.test.read(torch.arange(3)).isfinite().all()
    assert sum("no training row has" in w for w in data.found.warnings) == 2
    assert again.train.fingerprint == data.train.fingerprint and base.facts["columns"][1]["values"] == ["a", "b"]


def test_statistics_do_not_move_with_the_test_split(tmp_path):
    write(frame(40), tmp_path / "train.csv")
    specs = []
    for seed in (1, 2):
        write(frame(30, seed), tmp_path / "test.csv")
        specs.append(load(tmp_path, label="class").train.modality.spec)
    assert specs[0] == specs[1]


def test_columns_of_the_test_split_may_stand_elsewhere_but_not_be_gone(tmp_path):
    table = frame()
    write(table, tmp_path / "train.csv")
    write(table[table.columns[::-1]].assign(extra=1), tmp_path / "test.csv")
    data = load(tmp_path, label="class")
    assert sorted(data.test.modality.columns(data.test.stored, plain=True)["age"]) == sorted(table["age"])
    write(table.drop(columns=["age"]), tmp_path / "test.csv")
    with pytest.raises(BadInput, match="test table lacks the column age"):
        load(tmp_path, label="class")


def test_rows_without_a_label_are_rejected(tmp_path):
    table = frame(400)
    table.loc[7, "class"] = None
    found = load(write(table, tmp_path / "t.csv"), label="class").found
    assert found.rejects == (("train row 8", "no label"),) and sum(sum(c.values()) for c in found.counts.values()) == 399
    table.loc[:20, "class"] = "?"
    with pytest.raises(Unreadable, match="21 of 400 items"):
        load(write(table, tmp_path / "t.csv"), label="class")


def test_infinite_and_enormous_numbers_are_missing():
    table = pd.DataFrame({"n": [np.inf, -np.inf, 1e300, 2.0] * 20, "y": [0, 1, 0, 1] * 20})
    data = load(table, label="y")
    assert set(data.train.stored[:, 0][~data.train.stored[:, 0].isnan()].tolist()) == {2.0}
    assert data.train.read(torch.arange(5)).isfinite().all()


# -- columns left out --------------------------------------------------------------------------------------------------


def test_names_row_numbers_and_nested_values_are_left_out_with_a_warning():
    n = 200
    table = pd.DataFrame(
        {"id": np.arange(n), "who": [f"person {k}" for k in range(n)], "nothing": [None] * n, "list": [[1, 2]] * n, "x": np.random.default_rng(0).normal(size=n), "y": [0, 1] * 100}
    )
    data = load(table, label="y")
    assert list(columns(data)) == ["x"]
    for name in ("id", "who", "nothing", "list"):
        assert any(f"'{name}' was left out" in w for w in data.found.warnings), name


def test_many_values_that_are_frequent_are_a_category():
    """60 values, but each on many rows: at most 5% of the rows are different."""
    table = pd.DataFrame({"city": [f"city {k % 60}" for k in range(3000)], "y": [k % 2 for k in range(3000)]})
    assert len(columns(load(table, label="y"))["city"]["values"]) == 60


def test_rare_values_beyond_256_count_as_missing():
    values = [f"v{k % 300:03d}" for k in range(30_000)] + ["v000"] * 100
    data = load(pd.DataFrame({"c": values, "x": 1.0, "y": [k % 2 for k in range(len(values))]}), label="y")
    assert len(columns(data)["c"]["values"]) == 256 and any("256 most frequent of 300" in w for w in data.found.warnings)


def test_a_table_without_a_usable_column_is_refused():
    with pytest.raises(BadInput, match="no column can be used"):
        load(pd.DataFrame({"who": [f"person {k}" for k in range(100)], "y": [0, 1] * 50}), label="y")


def test_a_label_with_a_value_per_row_is_refused():
    with pytest.raises(BadInput, match="different values"):
        load(pd.DataFrame({"x": np.arange(500.0), "y": np.random.default_rng(0).normal(size=500)}), label="y")


def test_whole_numbers_too_large_for_their_storage_are_warned_about():
    table = pd.DataFrame({"n": np.random.default_rng(0).integers(0, 1 << 40, 60), "y": [0, 1] * 30})
    assert any("24 bits" in w for w in load(table, label="y").found.warnings)


# -- the shapes a CSV comes in -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_found(tmp_path, delimiter):
    (tmp_path / "t.csv").write_text("\n".join(delimiter.join(row) for row in [["a", "b", "y"]] + [[str(k % 13), "x z", "pq"[k % 2]] for k in range(40)]))
    assert list(columns(load(tmp_path / "t.csv", label="y"))) == ["a", "b"]


def test_quotes_line_breaks_in_cells_and_a_byte_order_mark(tmp_path):
    body = "".join(f'"say ""hi"", {k % 3}\nand go",{k % 7},{k % 2}\r\n' for k in range(60))
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbf" + f"words,n,y\r\n{body}".encode())
    data = load(tmp_path / "t.csv", label="y")
    assert columns(data)["words"]["values"] == [f'say "hi", {k}\nand go' for k in range(3)]


def test_rows_with_too_many_or_too_few_cells_are_rejected_by_number(tmp_path):
    lines = ["a,y"] + [f"{k},{k % 2}" for k in range(300)]
    lines[8], lines[12] = "1,2,3", "1"
    (tmp_path / "t.csv").write_text("\n".join(lines))
    found = load(tmp_path / "t.csv", label="y").found
    assert [name for name, _ in found.rejects] == ["t.csv row 9", "t.csv row 13"] and "3 cells where 2 were expected" in found.rejects[0][1]
    lines[20:60] = ["1"] * 40
    (tmp_path / "t.csv").write_text("\n".join(lines))
    with pytest.raises(Unreadable, match="42 of 300 items"):
        load(tmp_path / "t.csv", label="y")


def test_text_that_is_not_utf8_is_read_and_warned_about(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"c,y\n" + b"caf\xe9,0\nth\xe9,1\n" * 20)
    data = load(tmp_path / "t.csv", label="y")
    assert columns(data)["c"]["values"] == ["café", "thé"] and any("not UTF-8" in w for w in data.found.warnings)


def test_bad_rows_of_a_file_that_is_not_utf8_are_rejected_too(tmp_path, capfd):
    (tmp_path / "t.csv").write_bytes(b"c,y\n" + b"caf\xe9,0\nth\xe9,1\n" * 100 + b"caf\xe9,0,1\n")
    found = load(tmp_path / "t.csv", label="y").found
    assert [name for name, _ in found.rejects] == ["t.csv row 202"] and capfd.readouterr() == ("", "")


def test_a_type_that_changes_late_in_the_file(tmp_path):
    """Whatever the first million rows look like: the whole column decides."""
    (tmp_path / "t.csv").write_text("n,y\n" + "".join(f"{k % 9},{k % 2}\n" for k in range(3000)) + "2.5,1\n3.25,0\n" * 100)
    assert not columns(load(tmp_path / "t.csv", label="y"))["n"]["integer"]


@pytest.mark.parametrize("content", ["", "a,y\n", "just text", "a,a,y\n1,2,3\n", "a,y\n1,0\n2,0\n"])
def test_tables_of_no_use_are_refused(tmp_path, content):
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises((BadInput, UsageError)):
        load(tmp_path / "t.csv", label="y")


def test_broken_parquet_is_refused(tmp_path):
    whole = write(frame(), tmp_path / "t.parquet").read_bytes()
    for n in range(10, len(whole), 401):
        (tmp_path / "cut.parquet").write_bytes(whole[:n])
        with pytest.raises(BadInput):
            load(tmp_path / "cut.parquet", label="class")


def test_hostile_column_names_and_values_stay_text(tmp_path):
    table = pd.DataFrame({"\x1b[31m<b>": ["<script>", "\x1b[0m"] * 20, "y": ["=cmd()", "ok"] * 20})
    data = load(write(table, tmp_path / "t.parquet"), label="y")
    assert data.found.classes == ("=cmd()", "ok") and not any("\x1b" in line for line in data.found.lines())


def test_a_table_that_does_not_fit_in_memory_is_refused_unread(tmp_path, monkeypatch):
    path = write(frame(), tmp_path / "t.csv")
    monkeypatch.setattr("datadistill.data.guard.available_memory", lambda: 1000)
    with pytest.raises(Resources):
        load(path, label="class")


def test_a_column_of_another_type_in_the_test_split_is_refused_in_words():
    train = pd.DataFrame({"n": np.arange(40.0), "c": ["a", "b"] * 20, "y": [0, 1] * 20})
    for name, value in (("n", pd.Timestamp("2020-01-01")), ("c", [1, 2])):
        test = train[:6].drop(columns=[name]).assign(**{name: [value] * 6})
        with pytest.raises(BadInput, match=f"column '{name}' of the test table"):
            load({"train": train, "test": test}, label="y")
    with pytest.raises(BadInput, match="label column"):
        load(train.assign(y=[[1]] * 40), label="y")


def test_a_column_without_values_in_the_test_split_is_missing_there():
    train = pd.DataFrame({"n": np.arange(40.0), "c": ["a", "b"] * 20, "d": pd.Timestamp("2020-01-01"), "y": [0, 1] * 20})
    data = load({"train": train, "test": pd.DataFrame({"n": [None], "c": [None], "d": [None], "y": [1]})}, label="y")
    assert data.test.stored[0].isnan().tolist() == [True, False, True] and data.test.stored[0, 1] == -1


# -- pandas ------------------------------------------------------------------------------------------------------------


def test_a_frame_is_read_and_left_alone():
    table = frame().astype({"colour": "category"})
    before = table.copy(deep=True)
    data = load(table, label="class")
    pd.testing.assert_frame_equal(table, before)
    assert data.found.kind == "data frame" and columns(data)["colour"]["values"] == ["blue", "green", "red"]


def test_a_frame_and_a_file_of_it_are_the_same_data(tmp_path):
    table = frame()
    assert load(table, label="class").train.fingerprint == load(write(table, tmp_path / "t.parquet"), label="class").train.fingerprint


def test_columns_of_mixed_python_values_are_text():
    table = pd.DataFrame({"m": [1, "a", None, 2.5] * 20, 7: 1.0, "y": [0, 1] * 40})
    data = load(table, label="y")
    assert columns(data)["m"]["values"] == ["1", "2.5", "a"] and "7" in columns(data)


def test_frames_by_split_and_with_labels_apart():
    table = frame()
    assert load({"train": table, "test": table[:20]}, label="class").found.split["found"] == ["train", "test"]
    data = load((table.drop(columns=["class"]), table["class"]))
    assert data.found.classes == ("no", "yes") and data.train.modality.spec.facts["label"] == "class"


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.none() | st.floats(-1e5, 1e5, width=32), st.none() | st.sampled_from(["a", "b", "ü"]), st.sampled_from("pq")), min_size=12, max_size=40))
def test_whatever_goes_in_comes_out(rows):
    rows = [(1.0, "a", "p"), (1.5, "b", "q")] * 2 + rows
    table = pd.DataFrame(rows, columns=["n", "c", "y"])
    data = load(table, label="y", val=0.0, test=0.0)
    read = data.train.modality.columns(data.train.stored, plain=True)
    known = set(columns(data)["c"]["values"])
    assert [None if v is None else round(v, 3) for v in read["n"]] == [None if pd.isna(v) else round(float(np.float32(v)), 3) for v in table["n"]]
    assert read["c"] == [v if v in known else None for v in table["c"]]
    assert [data.found.classes[k] for k in data.train.labels] == list(table["y"])
