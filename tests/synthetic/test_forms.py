"""Forms: what students see comes out of what is stored, by a rule that can be done by hand, and nothing else is counted."""

import json

import pytest
import torch
import torch.nn.functional as F

from datadistill.data.task import Real, Task
from datadistill.errors import BadInput, UsageError
from datadistill.labels import Hard, Repeated, Soft
from datadistill.modalities import Image, Tabular
from datadistill.rng import rng
from datadistill.synthetic import SyntheticSet, forms
from datadistill.synthetic.artifact import Artifact


def pictures(side=6, channels=2, each=5, classes=("a", "b", "c")):
    stored = torch.randint(0, 256, (each * len(classes), channels, side, side), generator=rng(0, "pictures"), dtype=torch.uint8)
    labels = torch.arange(len(classes)).repeat(each)
    return Real(stored, labels, Image(Image.spec_of(stored, tuple(classes), mode="other")))


def rows():
    stored = torch.randn((20, 3), generator=rng(0, "rows"))
    columns = [{"name": n, "integer": False} for n in "abc"]
    return Real(stored, torch.arange(20) % 2, Tabular(Tabular.spec_of(stored, columns, ("x", "y"), "label")))


def task_of(real, quota):
    return Task(real, real, torch.tensor(quota))


QUOTA = [2, 1, 3]
OVERHEAD = {"frequency:2": 36 * 2 + 9, "frequency:4": 18 * 2 + 9, "basis:2": 6 * 2 + 12 * 6 * 2, "basis:3": 6 * 2 + 18 * 6 * 2}  # scales, bits, addresses


@pytest.mark.parametrize("side,factor", [(6, 2), (7, 2), (7, 3), (5, 1)])
def test_multiform_by_hand(side, factor):
    """Example k of an item is square k of its grid, row by row, enlarged alone; a pixel is a weighted mean of its two neighbours each way."""
    task = task_of(pictures(side), QUOTA)
    syn = SyntheticSet.init(task, "noise", rng(1), f"multiform:{factor}")
    seen = syn.examples().double()
    cuts = [0]
    for k in range(factor):  # the first squares are the larger ones
        cuts.append(cuts[-1] + side // factor + (k < side % factor))
    for i in range(len(syn)):
        for r in range(factor):
            for c in range(factor):
                square = syn.x[i, :, cuts[r] : cuts[r + 1], cuts[c] : cuts[c + 1]].double()
                by_hand = enlarge(enlarge(square, side).transpose(1, 2), side).transpose(1, 2)
                torch.testing.assert_close(seen[i * factor**2 + r * factor + c], by_hand, atol=1e-6, rtol=0)


def enlarge(x, side):
    """(C, h, w) -> (C, side, w), bilinear: output row j looks at (j + 1/2) h / side - 1/2, clamped to the rows that are there."""
    h = x.shape[1]
    out = []
    for j in range(side):
        at = max(0.0, (j + 0.5) * h / side - 0.5)
        low = min(int(at), h - 1)
        high, part = min(low + 1, h - 1), at - low
        out.append((1 - part) * x[:, low] + part * x[:, high])
    return torch.stack(out, 1)


def test_each_item_gives_its_examples_and_its_gradient_alone():
    task = task_of(pictures(), QUOTA)
    syn = SyntheticSet.init(task, "real", rng(1), "multiform:2")
    some = torch.tensor([4, 1])
    assert torch.equal(syn.examples(some), syn.examples().unflatten(0, (-1, 4))[some].flatten(0, 1))
    syn.examples(some).sum().backward()
    touched = syn.x.grad.flatten(1).abs().sum(1) > 0
    assert touched.tolist() == [i in some.tolist() for i in range(len(syn))]


def test_real_start_is_made_of_real_examples_of_the_class():
    real = pictures(side=8)
    task = task_of(real, QUOTA)
    syn = SyntheticSet.init(task, "real", rng(1), "multiform:2")
    small = F.avg_pool2d(real.read(torch.arange(len(real))), 2)  # 8 -> 4
    squares = syn.x.detach().unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).flatten(1, 2)
    for i, c in enumerate(syn.y.tolist()):
        own = small[real.labels == c]
        found = [int((own - square).flatten(1).abs().sum(1).argmin()) for square in squares[i]]
        assert all(torch.allclose(own[k], square, atol=1e-5) for k, square in zip(found, squares[i], strict=True))
        assert len(set(found)) == 4  # a class with enough examples does not repeat them


def test_a_class_with_too_few_examples_repeats_them():
    task = task_of(pictures(each=2), [2, 2, 2])
    syn = SyntheticSet.init(task, "real", rng(1), "multiform:3")
    assert syn.examples().shape == (6 * 9, 2, 6, 6) and bool(torch.isfinite(syn.x).all())


@pytest.mark.parametrize("form", ["pixels", "multiform:2", "multiform:3", "frequency:2", "frequency:4", "basis:2", "basis:3"])
def test_artifact_keeps_items_and_gives_examples(form, tmp_path):
    """Budget and bytes count what is stored; what is read back is what the set gave, to the rounding of what is stored."""
    task = task_of(pictures(), QUOTA)
    syn = SyntheticSet.init(task, "noise", rng(1), form)
    artifact = Artifact.of(syn, {})
    loaded = Artifact.load(artifact.save(tmp_path / "set"))
    each = syn.each
    assert loaded.sha256 == artifact.sha256 and loaded.manifest == artifact.manifest
    assert len(loaded) == 6 * each and loaded.items == 6
    assert loaded.manifest["budget"]["per_class"] == QUOTA and loaded.manifest["budget"]["items"] == 6
    assert loaded.bytes == 6 * (2 * 6 * 6 + 1) + OVERHEAD.get(form, 0)
    assert loaded.y.tolist() == torch.tensor([0, 0, 1, 2, 2, 2]).repeat_interleave(each).tolist()
    x, y = loaded.to_torch()[:]
    assert len(x) == len(y) == 6 * each
    mean, deviation = task.modality.statistics()
    natural = syn.examples().detach() * deviation + mean
    slack = 1.001 / 255 if form.startswith(("pixels", "multiform")) else 0.05  # half a step for what is stored, half for what comes out
    assert (x - natural.clamp(0, 1)).abs().max() <= slack
    assert torch.equal(loaded.read(torch.arange(len(loaded))), task.modality.read(syn.stored()))
    assert json.loads((tmp_path / "set" / "manifest.json").read_text())["form"]["name"] == form.split(":")[0]


def test_frequency_by_hand():
    """The kept coefficients are scipy's, those with the most variance; the examples are the inverse transform of them alone."""
    fft = pytest.importorskip("scipy.fft")
    real = pictures(side=6, each=9)
    task = task_of(real, QUOTA)
    syn = SyntheticSet.init(task, "real", rng(1), "frequency:4")
    seen = fft.dctn(real.read(torch.arange(len(real))).double().numpy(), axes=(2, 3), norm="ortho").reshape(len(real), -1)
    assert set(syn.form.kept.nonzero().squeeze(1).tolist()) == set((-seen.var(0)).argsort()[:18].tolist())
    start = real.read(forms.real_indices(task, rng(1), 4)).double()
    spectrum = fft.dctn(start.numpy(), axes=(2, 3), norm="ortho").reshape(24, -1) * syn.form.kept.numpy()
    by_hand = fft.idctn(spectrum.reshape(24, 2, 6, 6), axes=(2, 3), norm="ortho")
    torch.testing.assert_close(syn.examples().detach().double(), torch.from_numpy(by_hand), atol=1e-5, rtol=0)


def test_a_step_in_frequency_is_a_step_on_pixels_projected():
    """The transform has orthonormal rows: descent on coefficients moves examples as descent on pixels does, within the kept space."""
    task = task_of(pictures(), QUOTA)
    syn = SyntheticSet.init(task, "real", rng(1), "frequency:2")
    goal = torch.randn(syn.examples().shape, generator=rng(2))
    before = syn.examples().detach()
    (syn.examples() * goal).sum().backward()
    with torch.no_grad():
        syn.form.x -= syn.form.x.grad
    moved = before - syn.examples().detach()
    torch.testing.assert_close((moved * (goal - moved)).sum(), torch.tensor(0.0), atol=1e-3, rtol=0)  # what is left out stands upright on it
    everything = SyntheticSet.init(task, "real", rng(1), "frequency:1")
    torch.testing.assert_close(everything.examples().detach(), task.train.read(forms.real_indices(task, rng(1))), atol=1e-5, rtol=0)


@pytest.mark.parametrize("real,quota", [(pictures(each=9), QUOTA), (rows(), [1, 1])])
def test_basis_starts_as_the_best_approximation_and_mixes(real, quota):
    """Of all sets of n bases none comes closer to the examples (Eckart & Young): the error is that of the singular values left out."""
    task = task_of(real, quota)
    n = sum(quota)
    syn = SyntheticSet.init(task, "real", rng(1), "basis:3")
    x = real.read(forms.real_indices(task, rng(1), 3)).flatten(1).double()
    left_out = torch.linalg.svdvals(x)[n:].square().sum()
    torch.testing.assert_close((syn.examples().detach().flatten(1).double() - x).square().sum(), left_out, atol=1e-4, rtol=1e-4)
    by_hand = torch.stack([sum(a * b for a, b in zip(row, syn.form.x.detach(), strict=True)) for row in syn.form.address.detach()])
    torch.testing.assert_close(syn.examples().detach().flatten(1), by_hand, atol=1e-5, rtol=1e-5)
    syn.examples(torch.tensor([1])).sum().backward()
    assert bool((syn.form.x.grad.abs().sum(1) > 0).sum() > 1)  # an example draws on bases of other items
    assert (syn.form.scaled.grad.abs().sum(1) > 0).nonzero().squeeze(1).tolist() == [3, 4, 5]


@pytest.mark.parametrize("form", ["multiform:2", "frequency:2", "basis:2"])
def test_examples_of_some_items(form):
    syn = SyntheticSet.init(task_of(pictures(), QUOTA), "real", rng(1), form)
    some = torch.tensor([4, 1])
    torch.testing.assert_close(syn.examples(some), syn.examples().unflatten(0, (-1, syn.each))[some].flatten(0, 1))


def test_two_forms_of_the_same_bytes_are_not_the_same_set():
    task = task_of(pictures(), QUOTA)
    x = task.modality.noise(6, rng(1))
    two, three = (Artifact.of(SyntheticSet(forms.Multiform(x, task.modality, f), Hard(task.labels, 3), task.modality), {}) for f in (2, 3))
    assert two.sha256 != three.sha256


def test_soft_labels_of_items_are_those_of_their_examples(tmp_path):
    task = task_of(pictures(), QUOTA)
    logits = torch.randn((6, 3), generator=rng(2))
    syn = SyntheticSet(forms.Multiform(task.modality.noise(6, rng(1)), task.modality, 2), Soft(logits), task.modality)
    loaded = Artifact.load(Artifact.of(syn, {}).save(tmp_path / "set"))
    torch.testing.assert_close(loaded.labels.targets(torch.arange(24)), logits.half().float().softmax(1).repeat_interleave(4, 0))
    assert loaded.bytes == 6 * (2 * 6 * 6 + 2 * 3)


def test_repeated_labels():
    labels = Repeated(Hard(torch.tensor([2, 0]), 3), 3)
    assert labels.hard.tolist() == [2, 2, 2, 0, 0, 0]
    assert labels.targets(torch.tensor([0, 2, 3, 5])).tolist() == [2, 2, 0, 0]
    assert labels.tensors()["labels"].tolist() == [2, 0]


def test_tables_have_no_grid():
    task = task_of(rows(), [1, 1])
    with pytest.raises(UsageError, match="tabular.*"):
        SyntheticSet.init(task, "real", rng(1), "multiform:2")
    assert len(SyntheticSet.init(task, "real", rng(1)).examples()) == 2


@pytest.mark.parametrize("form", ["frequency:2", "basis:2"])
@pytest.mark.parametrize("damage", [lambda t: t.float(), lambda t: t[:-1], lambda t: t.repeat(2, *[1] * (t.ndim - 1)), lambda t: t.flatten(),
                                    lambda t: torch.full_like(t, float("nan")) if t.is_floating_point() else t[:0]], ids=["type", "shorter", "longer", "flat", "nan"])
def test_tensors_that_do_not_fit_are_refused(form, damage):
    task = task_of(pictures(), QUOTA)
    syn = SyntheticSet.init(task, "noise", rng(1), form)
    for name, tensor in syn.pack().items():
        if torch.equal(hurt := damage(tensor), tensor) and hurt.dtype == tensor.dtype:
            continue  # a vector is flat already
        if form == "frequency:2" and name == "codes" and len(hurt) in (0, 2 * len(tensor)):
            continue  # another number of items: that there are as many labels is the artifact's to see
        with pytest.raises((ValueError, KeyError)):
            forms.rows(syn.form.about(), {**syn.pack(), name: hurt}, task.modality)


@pytest.mark.parametrize("form", ["frequency:2", "basis:2", "haba:1", "field:1"])
@pytest.mark.parametrize("far", [1e6, 1e20])
def test_parameters_that_went_far_are_kept_as_far_as_numbers_go(form, far, tmp_path):
    """No form clamps them while they are distilled; what steps that were too long made of them is read back all the same."""
    syn = SyntheticSet.init(task_of(pictures(side=12), QUOTA), "noise", rng(1), form)
    with torch.no_grad():
        for p in syn.parameters():
            p.mul_(far)
    loaded = Artifact.load(Artifact.of(syn, {}).save(tmp_path / "set"))
    assert all(bool(torch.isfinite(t).all()) for t in loaded.tensors.values()) and torch.equal(loaded.x, syn.stored())


@pytest.mark.parametrize("side,form,fix", [(6, "multiform:7", "multiform:2"), (1, "multiform:2", "pixels"), (6, "field:5", "field:1"), (1, "field:1", "pixels")])
def test_more_than_an_item_holds_is_refused_with_a_form_that_works(side, form, fix):
    task = task_of(pictures(side), QUOTA)
    with pytest.raises(UsageError, match="at most") as refused:
        SyntheticSet.init(task, "noise", rng(1), form)
    assert refused.value.fix == f"--set form={fix}" and len(SyntheticSet.init(task, "noise", rng(1), fix)) == 6


@pytest.mark.parametrize("text", ["", "grid", "multiform:", "multiform:x", "multiform:0", "multiform:999", "pixels:-1", "multiform:²"])
def test_a_form_that_is_not_there(text):
    if text == "multiform:":  # the number may be left out
        assert forms.named(text) == (forms.Multiform, 2)
        return
    with pytest.raises(UsageError):
        forms.named(text)


@pytest.mark.parametrize("form", [{"name": "grid"}, {"name": ["multiform"]}, {"name": "multiform", "settings": "2"}, {"name": "multiform", "settings": 0},
                                  {"name": "multiform", "settings": True}, {"name": "multiform", "settings": 60}, {"name": "multiform", "settings": 3}, {}])
def test_a_manifest_with_a_wrong_form_is_refused(form, tmp_path):
    syn = SyntheticSet.init(task_of(pictures(), QUOTA), "noise", rng(1), "multiform:2")
    path = Artifact.of(syn, {}).save(tmp_path / "set")
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, "form": form}))
    with pytest.raises(BadInput):
        Artifact.load(path)


def test_representative_examples_are_those_in_the_middle_of_their_class():
    """An item for each of the two places where a class is, whatever the seed; a class of one example repeats it."""
    own = torch.tensor([[0.0, 0.0]] * 9 + [[0.1, 0.0]] * 9 + [[9.0, 9.0]] * 9 + [[9.0, 9.1]] * 9)
    lone = torch.tensor([[5.0, 5.0]])
    stored, labels = torch.cat([own, lone]), torch.tensor([0] * len(own) + [1])
    columns = [{"name": n, "integer": False} for n in "ab"]
    task = task_of(Real(stored, labels, Tabular(Tabular.spec_of(stored, columns, ("x", "y"), "label"))), [2, 3])
    for seed in range(5):
        x = SyntheticSet.init(task, "representative", rng(seed)).stored()
        assert sorted((x[:2] > 5).all(1).tolist()) == [False, True]
        assert torch.equal(x[2:], lone.expand(3, 2))


@pytest.mark.parametrize("form", ["pixels", "multiform:2", "frequency:4", "basis:3", "haba:2", "field:2"])
def test_every_form_begins_with_what_it_is_asked_to(form):
    """Three starts are three sets, each the same for the same name."""
    task = task_of(pictures(each=9), QUOTA)
    starts = {how: SyntheticSet.init(task, how, rng(1), form).examples().detach() for how in ("real", "representative", "noise")}
    assert torch.equal(starts["representative"], SyntheticSet.init(task, "representative", rng(1), form).examples())
    assert all(not torch.equal(starts[a], starts[b]) for a, b in [("real", "representative"), ("real", "noise"), ("representative", "noise")])
