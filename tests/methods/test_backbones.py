"""CV-DD, WMDD, CIM, SC-DD and LGM against their formulas retyped slowly, and what each is for."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from datadistill import methods, nets
from datadistill.match import batch_norm
from datadistill.methods.cim import mapped
from datadistill.methods.cv_dd import shares
from datadistill.methods.lgm import Pyramid, colours, slope
from datadistill.methods.wmdd import barycentres
from datadistill.nets.taps import Taps, batch_norms
from datadistill.rng import rng
from datadistill.run import Run
from datadistill.testing import tiny_tasks
from datadistill.training.patches import mosaic, tiles
from datadistill.training.recover import Committee, Guide, whole_classes
from datadistill.training.statistics import class_moments
from datadistill.training.targets import EachClass, Running
from datadistill.training.unlabelled import Contrast, backbone, contrast, probed

TASK = tiny_tasks()["image"]
TAUGHT = {"width": 4, "epochs": 2, "labels": "hard"}


@pytest.fixture(scope="module")
def phi() -> nets.Net:
    return methods.get("sre2l", **TAUGHT).phis(TASK, Run(0))[0]


def norm(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return ((a - b) ** 2).sum().sqrt()


# -- CV-DD --------------------------------------------------------------------------------------------------------------


def test_a_committees_loss_is_that_of_each_by_its_share(phi):
    assert shares(torch.tensor([60.0, 65.0, 50.0]), 5.0) == pytest.approx([math.exp(p / 5) / sum(math.exp(q / 5) for q in (60, 65, 50)) for p in (60, 65, 50)])
    other = methods.get("sre2l", net="vgg", **TAUGHT).phis(TASK, Run(0))[0]
    x, y = torch.randn(4, 1, 8, 8, generator=rng(0)).requires_grad_(), torch.tensor([0, 1, 2, 1])
    guides = [Guide(net, Running(net)) for net in (phi, other)]
    loss = Committee(guides, [0.3, 0.7]).loss(x, y, 0.1)
    expected = sum(w * (F.cross_entropy(g.net(x), y) + 0.1 * statistics(g.net, x)) for w, g in zip((0.3, 0.7), guides, strict=True))
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)


def statistics(net: nets.Net, x: torch.Tensor) -> torch.Tensor:
    target = Running(net)
    with target.taps:
        net(x)
    return target.loss(torch.zeros(len(x)))


def test_every_index_is_shown_to_two_of_the_committee_at_every_step(monkeypatch):
    seen, embed = [], nets.ResNet.embed
    monkeypatch.setattr(nets.ResNet, "embed", lambda self, x: (x.requires_grad and seen.append((id(self), x.detach().clone())), embed(self, x))[1])
    method = methods.get("cv-dd", iterations=3, net="resnet+resnet+resnet", candidates=3, **TAUGHT)
    method.distill(TASK, Run(0))
    steps = [seen[k : k + 2] for k in range(0, len(seen), 2)]
    assert len(steps) == 4 * 3  # indices, steps
    for pair in steps:
        assert pair[0][0] != pair[1][0] and torch.equal(pair[0][1], pair[1][1])
    pairs = [{step[0][0], step[1][0]} for step in steps]
    assert all(pairs[k] == pairs[3 * (k // 3)] for k in range(12)) and len({frozenset(p) for p in pairs}) > 1


# -- WMDD -----------------------------------------------------------------------------------------------------------------


def test_moments_of_examples_and_of_several_together_by_hand():
    h = torch.randn(5, 3, 4, 2, generator=rng(0)).double() * 3 + 1
    each = batch_norm.by_example(h.float())
    for i in range(5):
        for c in range(3):
            own = h[i, c].flatten()
            assert float(each.mean[i, c]) == pytest.approx(float(own.mean()), rel=1e-4)
            assert float(each.var[i, c]) == pytest.approx(float(((own - own.mean()) ** 2).mean()), rel=1e-4)
    of = torch.tensor([1, 0, 1, 1, 0])
    together = batch_norm.grouped(each, of, 2)
    for group in range(2):
        whole = batch_norm.moments(h[of == group].float())
        torch.testing.assert_close(together.mean[group], whole.mean)
        torch.testing.assert_close(together.var[group], whole.var)


def test_wmdds_loss_by_hand(phi):
    by_class = class_moments(phi, TASK.train, Run(0))
    target = EachClass(phi, by_class, weight=3.0, first=2.0)
    x, y = torch.randn(5, 1, 8, 8, generator=rng(1)).requires_grad_(), torch.tensor([2, 0, 0, 2, 2])
    target.atoms = torch.randn(5, phi.head.in_features, generator=rng(2))
    with target.taps:
        phi(x)
    expected = norm(phi.embed(x), target.atoms)
    for c in (0, 2):
        with (taps := Taps(batch_norms(phi), lambda module, h: h)):
            phi(x[y == c])  # eval mode: an example's features do not depend on its neighbours
        for k, h in enumerate(taps.seen):
            mean, var = h.mean((0, 2, 3)), h.var((0, 2, 3), correction=0)
            expected = expected + 3 / 2 * (2 if k == 0 else 1) * (norm(mean, by_class[k].mean[c]) + norm(var, by_class[k].var[c]))
    loss = target.loss(y)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(*(torch.autograd.grad(value, x)[0] for value in (loss, expected)), rtol=1e-3, atol=1e-4)


def test_whole_classes_stay_together_where_they_fit():
    y = torch.tensor([1, 0, 1, 2, 0, 3, 3, 3, 3, 3, 4])
    units = whole_classes(y, 4)
    assert [y[u.items].tolist() for u in units] == [[0, 0, 1, 1], [2], [3, 3, 3, 3], [3, 4]]
    assert len({u.name for u in units}) == len(units) and torch.cat([u.items for u in units]).sort().values.tolist() == list(range(11))


def test_one_item_is_drawn_to_the_mean_of_its_class_and_ends_nearer_to_it(phi):
    atoms = barycentres(phi, TASK, Run(0))
    assert atoms.shape == (7, phi.head.in_features)
    with torch.no_grad():
        torch.testing.assert_close(atoms[6], phi.embed(TASK.train.read(TASK.train.indices(2))).mean(0), rtol=1e-4, atol=1e-5)
    settings = {"crop": 1.0, "jitter": 0, "r": 0.01, **TAUGHT}
    far, near = (norm(phi.embed(methods.get("wmdd", iterations=n, lr=lr, **settings).distill(TASK, Run(0)).x.data), atoms) for n, lr in ((1, 0.0), (40, 0.1)))
    assert near < 0.5 * far


# -- CIM ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sides", "f"), [((8, 8), 2), ((7, 9), 2), ((9, 9), 3)])
def test_tiles_are_what_a_mosaic_was_made_of(sides, f):
    flat = torch.arange(1.0, 3 * f * f + 1).view(-1, 1, 1, 1).expand(-1, 2, 4, 4)
    apart = tiles(mosaic(flat, 3, f, (2, *sides)), f)
    torch.testing.assert_close(apart, flat[:, :, :1, :1].expand(-1, -1, *sides))


def plain(task, monkeypatch):
    """The task's augmentation left out."""
    monkeypatch.setattr(type(task.modality), "augment", lambda self, rng, groups: lambda x, group: x)


def test_cim_by_hand(phi, monkeypatch):
    """Sources by cross-entropy, mosaic, and two steps of AdamW on the distance of what flows into the head, without an augmentation."""
    plain(TASK, monkeypatch)
    net = methods.get("cim", **TAUGHT).phis(TASK, Run(0))[0]
    syn = methods.get("cim", iterations=2, factor=2, candidates=1000, chunk=3, **TAUGHT).distill(TASK, Run(0))
    deviation = TASK.modality.statistics()[1]
    low, high = ((edge - TASK.modality.statistics()[0]) / deviation for edge in (0.0, 1.0))
    for c in TASK.classes:
        n, own = int(TASK.quota[c]), TASK.train.indices(c)
        with torch.no_grad():
            order = own[F.cross_entropy(net(TASK.train.read(own)), torch.full_like(own, c), reduction="none").argsort(stable=True)].tolist()
        chosen = [order[k % len(order)] for k in range(4 * n)]
        real = TASK.train.read(torch.tensor(chosen))
        start = torch.zeros(n, 1, 8, 8)
        for place in range(4):
            i, j = divmod(place, 2)
            start[:, :, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4] = F.avg_pool2d(real[place * n : (place + 1) * n], 2)
        delta, m, v = torch.zeros_like(start), torch.zeros_like(start), torch.zeros_like(start)
        for s in range(1, 3):
            leaf = delta.clone().requires_grad_()
            x = start + leaf / deviation
            parts = torch.cat([x[:, :, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4] for i in range(2) for j in range(2)])
            said = net.embed(F.interpolate(parts, (8, 8), mode="bilinear", align_corners=False))
            (g,) = torch.autograd.grad((said - net.embed(real)).abs().mean(1).sum(), leaf)
            delta = delta * (1 - 0.01 * 0.01)
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            delta = delta - 0.01 * (m / (1 - 0.9**s)) / ((v / (1 - 0.999**s)).sqrt() + 1e-8)
            delta = (torch.minimum(torch.maximum(start + delta / deviation, low), high) - start) * deviation
        torch.testing.assert_close(syn.x.data[syn.y == c], start + delta / deviation, rtol=1e-3, atol=2e-3)


def test_cims_layers_are_counted_from_both_ends(phi):
    assert mapped(phi, -1) is phi.head and mapped(phi, 0) is phi.features[0]
    from datadistill.errors import UsageError

    with pytest.raises(UsageError, match="layer 99"):
        mapped(phi, 99)


# -- backbones without labels, SC-DD ------------------------------------------------------------------------------------------


def test_the_contrast_by_hand():
    z = torch.randn(6, 4, generator=rng(0), dtype=torch.float64)
    unit = [[v / math.hypot(*row) for v in row] for row in z.tolist()]
    total = 0.0
    for i in range(6):
        alike = [math.exp(sum(a * b for a, b in zip(unit[i], unit[k], strict=True)) / 0.5) for k in range(6)]
        total -= math.log(alike[(i + 3) % 6] / sum(a for k, a in enumerate(alike) if k != i))
    assert float(contrast(z, 0.5)) == pytest.approx(total / 6)


def test_a_backbone_never_sees_a_label_and_its_probe_knows_the_classes():
    from datadistill.data.task import Real

    how = Contrast(epochs=4, batch=13)
    psi = backbone(TASK.train, Run(0), how, net="resnet", width=4)
    assert not any(p.requires_grad for p in psi.parameters()) and not psi.training
    blind = Real(TASK.train.stored, torch.zeros(26, dtype=torch.long), TASK.modality)
    other = backbone(blind, Run(0), how, net="resnet", width=4)
    assert all(torch.equal(a, b) for a, b in zip(psi.state_dict().values(), other.state_dict().values(), strict=True))
    before = {k: v.clone() for k, v in psi.state_dict().items() if not k.startswith("head.")}
    head = psi.head.weight.clone()
    probed(psi, TASK.train, Run(0))
    assert all(torch.equal(v, before[k]) for k, v in psi.state_dict().items() if k in before) and not torch.equal(psi.head.weight, head)
    right = (psi(TASK.train.read(torch.arange(26))).argmax(1) == TASK.train.labels).float().mean()
    assert right > 0.7  # 12 of 26 are of the largest class


def test_a_backbone_made_in_two_sittings_is_that_of_one():
    from datadistill.errors import Interrupted
    from datadistill.run import Nowhere

    how, cache = Contrast(epochs=3, batch=13), Nowhere()
    whole = backbone(TASK.train, Run(0), how, net="resnet", width=4)

    class Stops(Nowhere):
        """Keeps what was made, and has no place for a third block."""

        def cached(self, name, key, make):
            if len(cache._cache) == 2 and (name, key) not in cache._cache:
                raise Interrupted(2, "stopped")
            return cache.cached(name, key, make)

    with pytest.raises(Interrupted):
        backbone(TASK.train, Run(0, snapshots=Stops()), how, net="resnet", width=4)
    rest = backbone(TASK.train, Run(0, snapshots=cache), how, net="resnet", width=4)
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), rest.state_dict().values(), strict=True))


def test_scdd_is_sre2l_through_another_net():
    settings = {"iterations": 3, "lr": 0.1, "r": 0.1, "probe_epochs": 2, **TAUGHT}
    found = {how: methods.get("sc-dd", pretraining=how, **settings).distill(TASK, Run(0)).stored() for how in ("self-supervised", "labels")}
    assert not torch.equal(*found.values())


# -- LGM ------------------------------------------------------------------------------------------------------------------


def test_the_slope_of_a_linear_head_is_autograds():
    z, y = torch.randn(6, 5, generator=rng(0), dtype=torch.float64), torch.tensor([0, 2, 1, 1, 0, 2])
    head, bias = torch.randn(3, 5, generator=rng(1), dtype=torch.float64).requires_grad_(), torch.zeros(3, dtype=torch.float64, requires_grad=True)
    w, b = torch.autograd.grad(F.cross_entropy(z @ head.T + bias, y), [head, bias])
    torch.testing.assert_close(slope(z, y, head.detach()), torch.cat([w.flatten(), b]))


def test_a_pyramid_keeps_its_size_when_a_level_joins_and_is_legal():
    pyramid = Pyramid(40, TASK, rng(0))
    assert [tuple(level.shape[2:]) for level in pyramid.levels] == [(1, 1), (2, 2), (4, 4), (8, 8)]
    x = pyramid()
    torch.testing.assert_close(x, x[:, :, :1, :1].expand(40, 1, 8, 8))  # one pixel each
    levels = [level.data.clone() for level in pyramid.levels]
    for m in range(1, 4):
        assert pyramid.extend() and int(pyramid.active) == m + 1
        for k in range(m + 1):
            torch.testing.assert_close(pyramid.levels[k].data, levels[k] / (m + 1))
    assert not pyramid.extend()
    x, edge = pyramid().detach(), torch.full((1, 1, 8, 8), 1e9)
    TASK.modality.clamp_(edge)
    assert (x <= edge).all() and torch.equal(x, (legal := x.clone(), TASK.modality.clamp_(legal))[0])


def test_colours_are_those_of_the_data():
    mixing = torch.tensor([[1.0, 0.2, 0.1], [0.9, 0.0, -0.3], [0.8, -0.4, 0.2]])
    x = torch.einsum("dc,nchw->ndhw", mixing, torch.randn(50, 3, 8, 8, generator=rng(0)))
    root = colours(x)
    covariance = torch.cov(x.transpose(0, 1).flatten(1))
    torch.testing.assert_close(root @ root.T / (root @ root.T).trace(), covariance / covariance.trace(), rtol=1e-4, atol=1e-5)
    assert float(root.norm(dim=0).max()) == pytest.approx(1)


def test_lgm_does_not_depend_on_its_chunks():
    settings = {"views": 2, "extend": 5, "lr": 0.05, "probe_epochs": 2, **TAUGHT}
    one, many = (methods.get("lgm", iterations=4, chunk=chunk, **settings).distill(TASK, Run(0)) for chunk in (1000, 3))
    torch.testing.assert_close(one.x.data, many.x.data, rtol=1e-3, atol=1e-3)


def test_what_lgm_makes_teaches_a_head_what_the_data_do(phi):
    """Over many heads, without views: nearer than where it began, a pixel each."""
    real, labels = phi.embed(TASK.train.read(torch.arange(26))).double(), TASK.train.labels

    def apart(n: int) -> float:
        syn = methods.get("lgm", iterations=n, views=2, extend=4, lr=0.05, crop=1.0, noise=0.0, probe_epochs=1, **TAUGHT).distill(TASK, Run(0))
        z, total = phi.embed(syn.x.data).double(), 0.0
        for k in range(30):
            head = 0.01 * torch.randn(3, z.shape[1], generator=rng(9, k), dtype=torch.float64)
            total += 1 - float(F.cosine_similarity(slope(z, syn.y, head), slope(real, labels, head), dim=0))
        return total / 30

    assert apart(80) < 0.5 * apart(1)
