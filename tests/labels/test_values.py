"""Labels that outputs are fitted to by least squares."""

from __future__ import annotations

import pytest
import torch

from datadistill import nets
from datadistill.errors import BadInput
from datadistill.labels import Repeated, Values, of
from datadistill.labels.base import nearest_distribution
from datadistill.match import kernel
from datadistill.methods.regression import label_scale
from datadistill.rng import rng
from datadistill.spec import Spec
from datadistill.training.fit import Schedule, fit

VALUES = torch.tensor([[0.75, -0.25, -0.25, -0.25], [2.0, 1.5, -1.0, 0.0], [0.1, 0.0, -0.2, 0.1]])
HARD = torch.tensor([0, 1, 3])


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_the_loss_is_as_steep_in_an_output_whatever_the_number_of_classes(classes):
    """For ten classes it is torch's mean squared error."""
    values, rows = torch.randn((3, classes), generator=rng(0)).half(), torch.tensor([2, 0])
    labels, logits = Values(values, HARD.clamp(max=classes - 1)), torch.randn((2, classes), generator=rng(1))
    loss = labels.loss(logits, *labels.ask(rows))
    assert loss.shape == (2,)
    torch.testing.assert_close(loss.mean(), classes / 10 * torch.nn.functional.mse_loss(logits, values[rows].float()))


@pytest.mark.parametrize("classes", [2, 10])
def test_students_bear_a_step_size_whatever_the_number_of_classes(classes):
    """Twenty items that look alike, with outputs as FRePo begins with: at the lower of the board's rates they are fitted."""
    spec = Spec("image", (1, 28, 28), (28, 28, 1), "uint8", tuple(map(str, range(classes))))
    y = torch.arange(20) % classes
    values = label_scale(classes) * kernel.centred(y, classes)
    labels = Values(values, y)
    for seed in range(3):
        net = nets.build("convnet", spec, rng(seed, "net"), width=16)
        items = Items(torch.randn(spec.shape, generator=rng(seed, "all")) + 0.3 * torch.randn((20, *spec.shape), generator=rng(seed, "items")))
        fit(net, items, labels, Schedule(150, lr=0.03, augment=False), seed)
        left = labels.loss(net(items.x), *labels.ask(torch.arange(20))).mean() / (values.square().sum(1).mean() / 10)
        assert float(left.detach()) < 0.05


class Items:
    """What `fit` reads."""

    def __init__(self, x: torch.Tensor):
        self.x = x

    def __len__(self) -> int:
        return len(self.x)

    def read(self, indices: torch.Tensor) -> torch.Tensor:
        return self.x[indices]


def test_as_a_distribution_they_are_the_nearest():
    """A centred class is that class again; no other point of the simplex is nearer."""
    said = Values(VALUES, HARD).targets(torch.arange(3))
    torch.testing.assert_close(said[0], torch.tensor([1.0, 0.0, 0.0, 0.0]))
    torch.testing.assert_close(said.sum(1), torch.ones(3))
    v = torch.randn((20, 4), generator=rng(1), dtype=torch.float64)
    mine = nearest_distribution(v)
    assert (mine >= 0).all()
    others = -torch.rand((5000, 1, 4), generator=rng(2), dtype=torch.float64).log()
    others /= others.sum(2, keepdim=True)
    near = mine + 0.01 * (others - mine)  # the simplex is convex: if a point is nearer, so is one close by
    assert ((v - mine).square().sum(1) <= (v - near).square().sum(2)).all()


def test_they_come_back_from_what_is_stored():
    labels = Values(VALUES, HARD)
    back = of(labels.tensors(), 4)
    assert isinstance(back, Values) and torch.equal(back.values, labels.values) and torch.equal(back.hard, HARD)
    assert labels.tensors()["values"].dtype == torch.float16


def test_items_of_several_examples_ask_for_the_same():
    labels, four = Values(VALUES, HARD), Repeated(Values(VALUES, HARD), 2)
    rows, logits = torch.tensor([0, 3, 5]), torch.randn((3, 4), generator=rng(0))
    assert torch.equal(four.loss(logits, *four.ask(rows)), labels.loss(logits, *labels.ask(rows // 2)))


@pytest.mark.parametrize("wrong", [{"values": VALUES[:2]}, {"values": VALUES[:, :3]}, {"values": VALUES * torch.inf}, {"values": VALUES.long()}, {"labels": HARD + 9}])
def test_what_cannot_have_been_written_is_refused(wrong):
    with pytest.raises(BadInput):
        of({**Values(VALUES, HARD).tensors(), **wrong}, 4)
    with pytest.raises(BadInput):
        of({"values": VALUES.half()}, 4)
