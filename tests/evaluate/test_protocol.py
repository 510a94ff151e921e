"""The protocol: hashed whole, honest about students; the test split: read once per seed."""

from dataclasses import fields, replace

import pytest
import torch

from datadistill.data.task import Real
from datadistill.errors import SecondTestRead, UsageError
from datadistill.evaluate import PROTOCOLS, Arm, Protocol, Sealed, score
from datadistill.labels import Hard
from datadistill.modalities import ALL
from datadistill.nets import FAMILIES
from datadistill.progress import Quiet
from datadistill.testing import tiny_tasks

TASKS = tiny_tasks()


def test_every_field_is_hashed():
    base = Protocol("p", steps=10, full_steps=20)
    other = {"name": "q", "steps": 11, "full_steps": 21, "lrs": (0.5,), "seeds": 6, "unseen": 1, "batch": 7, "momentum": 0.1, "weight_decay": 0.1, "augment": False, "sizes": {"mlp": {"width": 9}}, "nets": ("mlp",), "precision": "bfloat16"}
    assert set(other) == {f.name for f in fields(Protocol)}
    hashes = {replace(base, **{name: value}).hash for name, value in other.items()} | {base.hash}
    assert len(hashes) == len(other) + 1
    assert Protocol("p", steps=10, full_steps=20).hash == base.hash


def test_fewer_than_five_seeds_are_refused():
    with pytest.raises(UsageError, match="seeds"):
        Protocol("p", steps=10, full_steps=20, seeds=4)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_two_students_that_the_method_never_saw(task, protocol):
    modality = task.modality
    for used in [(), *((family,) for family in ALL[modality.name].nets)]:
        students = protocol.students(modality, used)
        unseen = [s for s in students if s not in used]
        assert len(unseen) >= 2 and len(set(students)) == len(students)
        assert any(not FAMILIES[s].batch_norm for s in unseen)


def test_students_by_name_are_those_and_no_others():
    base = PROTOCOLS["quick"]
    named = base.with_nets("resnet18, vgg:16,vit,mlp")
    image = TASKS["image"].modality
    assert named.students(image, ("convnet",)) == named.students(image, ()) == ["resnet18", "vgg", "vit", "mlp"]
    assert named.sizes["vgg"] == {"width": 16} and named.sizes["mlp"] == base.sizes["mlp"] and named.hash != base.hash != base.with_nets("mlp").hash
    assert PROTOCOLS["paper"].with_nets("resnet18,vgg,vit,mlp").sizes == {"resnet18": {}, "vgg": {}, "vit": {}, "mlp": {}}  # at full size
    with pytest.raises(UsageError, match="student 'vit' on tabular"):
        named.with_nets("vit").students(TASKS["tabular"].modality, ())


@pytest.mark.parametrize("text", ["", "resnet,", "resnet,resnet", "nothing", "resnet:", "resnet:x", "mlp:0", "mlp:-3", "linear:4", "mlp:²"])
def test_students_by_a_wrong_name_are_refused(text):
    if text == "resnet:":  # the number may be left out
        assert PROTOCOLS["quick"].with_nets(text).nets == ("resnet",)
        return
    with pytest.raises(UsageError, match="--nets"):
        PROTOCOLS["quick"].with_nets(text)


def test_a_second_read_voids_the_run():
    test = Sealed(next(iter(TASKS.values())).train)
    assert sum(len(y) for _, y in test.read(0)) == test.size
    assert sum(len(y) for _, y in test.read(1)) == test.size
    with pytest.raises(SecondTestRead, match="seed 0"):
        test.read(0)
    assert test.reads == {0: 2, 1: 1}


def test_nothing_else_leads_to_the_test_split():
    sealed = Sealed(next(iter(TASKS.values())).train)
    assert not [v for v in vars(sealed).values() if isinstance(v, (Real, torch.Tensor)) and not sealed.__class__.__name__ == "Sealed"]
    assert {name for name in dir(sealed) if not name.startswith("_")} == {"read", "reads", "size"}


class Counting(Real):
    """A split that counts how often each example is read."""

    def __init__(self, real):
        super().__init__(real.stored, real.labels, real.modality)
        self.read_count = torch.zeros(len(real), dtype=torch.long)

    def read(self, indices, device="cpu"):
        self.read_count[indices] += 1
        return super().read(indices, device)


def arms_of(task):
    def full(_):
        return task.train, Hard(task.train.labels, len(task.classes))

    return [Arm("distilled", full, 3), Arm("random", full, 3)]


def test_scoring_reads_each_test_example_once_per_seed_and_never_to_choose():
    task = TASKS[next(iter(TASKS))]
    protocol = Protocol("p", steps=3, full_steps=3, lrs=(0.01, 0.1), batch=16, sizes={"mlp": {"width": 4}})
    test, val = Counting(task.val), Counting(task.val)
    scores = score(arms_of(task), ["mlp", "linear"], val, Sealed(test), protocol, 0, device="cpu", progress=Quiet())
    assert test.read_count.tolist() == [protocol.seeds] * len(test)
    assert val.read_count.tolist() == [2 * 2 * 2] * len(val)  # arms x students x rates
    assert torch.equal(scores["distilled"].total, task.val.counts.float())
    assert scores["distilled"].accuracy() == scores["random"].accuracy()  # same data, same seeds: arms are paired


def test_the_rate_is_the_best_on_validation():
    task = TASKS[next(iter(TASKS))]
    protocol = Protocol("p", steps=40, full_steps=3, lrs=(1e-9, 0.05), batch=32)
    assert score(arms_of(task)[:1], ["linear"], task.val, Sealed(task.val), protocol, 0)["distilled"].lr == {"linear": 0.05}
