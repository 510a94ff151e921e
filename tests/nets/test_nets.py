"""Nets: the published sizes, weights by name, features before the head, and pooling that is what torch's pooling is."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from datadistill import nets
from datadistill.errors import UsageError
from datadistill.nets.pool import Halve
from datadistill.rng import rng
from datadistill.spec import Spec


def spec(*shape: int, classes: int = 10) -> Spec:
    return Spec("any", shape, shape, "float32", tuple(map(str, range(classes))))


def test_the_reference_convnet_has_the_published_number_of_parameters():
    assert nets.parameter_count(nets.build("convnet", spec(3, 32, 32), rng(0))) == 320_010


VIT_SMALL = 12 * (12 * 384**2 + 13 * 384) + (3 * 4 * 4 + 1) * 384 + 64 * 384 + 2 * 384 + (384 + 1) * 10  # blocks, patches, positions, norm, head


@pytest.mark.parametrize(("family", "count"), [("resnet18", 11_173_962), ("vgg", 9_231_114 - 2_752), ("vit", VIT_SMALL)])
def test_the_nets_of_the_papers_have_the_published_size(family, count):
    """ResNet-18 and VGG-11 with batch norm for CIFAR-10 as counted in public model zoos, the latter less its biases, which batch norm undoes."""
    with torch.device("meta"):
        assert nets.parameter_count(nets.FAMILIES[family]((3, 32, 32), 10)) == count


def test_a_vit_by_hand():
    """One block, one head, two patches of one pixel, a step at a time."""
    net = nets.build("vit", spec(1, 1, 2, classes=3), rng(0), width=8, depth=1).double()
    x = torch.randn(2, 1, 1, 2, dtype=torch.float64, generator=rng(1))
    block, w = net.blocks[0], {name: p.detach() for name, p in net.named_parameters()}

    def norm(h, name):
        return (h - h.mean(-1, keepdim=True)) / (h.var(-1, correction=0, keepdim=True) + 1e-5).sqrt() * w[name + ".weight"] + w[name + ".bias"]

    for n in range(2):
        h = torch.stack([x[n, 0, 0, p] * w["patches.weight"][:, 0, 0, 0] + w["patches.bias"] + w["position.weight"][p] for p in range(2)])
        q, k, v = (norm(h, "blocks.0.norm1") @ block.attention.ask.weight.T + block.attention.ask.bias).detach().split(8, 1)
        look = torch.stack([torch.stack([(q[a] * k[b]).sum() / 8**0.5 for b in range(2)]).exp() for a in range(2)])
        h = h + (look / look.sum(1, keepdim=True)) @ v @ w["blocks.0.attention.out.weight"].T + w["blocks.0.attention.out.bias"]
        inner = norm(h, "blocks.0.norm2") @ w["blocks.0.perceptron.0.weight"].T + w["blocks.0.perceptron.0.bias"]
        inner = inner * (1 + torch.erf(inner / 2**0.5)) / 2
        h = h + inner @ w["blocks.0.perceptron.2.weight"].T + w["blocks.0.perceptron.2.bias"]
        torch.testing.assert_close(net.embed(x)[n], norm(h, "norm").mean(0))


def test_a_vit_knows_where_a_patch_lies_and_pads_what_does_not_divide():
    net = nets.build("vit", spec(1, 17, 16), rng(0), width=64, depth=1)
    assert net.position.weight.shape == (9 * 8, 64)  # patches of 2, the last row half of zeros
    x = torch.randn(1, 1, 17, 16, generator=rng(1))
    assert not torch.allclose(net.embed(x), net.embed(x.flip(3)), atol=1e-4)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (1, 8, 8), (3, 9, 14), (2, 64, 48), (3, 3, 3), (1, 28, 1), (1, 1, 1)])
@pytest.mark.parametrize("family", ["convnet", "resnet", "vgg", "mlp", "linear", "vit"])
def test_logits_are_the_head_of_the_embedding_for_any_shape(family, shape):
    net = nets.build(family, spec(*shape, classes=7), rng(0), **({"width": 96, "depth": 2} if family == "vit" else {})).eval()
    x = torch.randn(3, *shape, generator=rng(1))
    assert net(x).shape == (3, 7)
    torch.testing.assert_close(net(x), net.head(net.embed(x)))
    assert net.embed(x).ndim == 2


def narrow(family: str) -> dict[str, int]:
    """The nets for large pictures are made small here."""
    return {"width": 8} if family.endswith("-224") else {}


@pytest.mark.parametrize("family", nets.FAMILIES)
def test_weights_come_from_the_generator_and_nothing_else(family):
    shape = (12,) if nets.FAMILIES[family].axes[0] == 1 else (1, 8, 8)
    before = torch.random.get_rng_state()
    one, same, other = (nets.build(family, spec(*shape), rng(s, "theta"), **narrow(family)).state_dict() for s in (0, 0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert any(not torch.equal(one[k], other[k]) for k in one)
    assert all(torch.isfinite(v).all() for v in one.values())


def test_a_net_for_pictures_refuses_rows_and_an_unknown_net_is_named():
    with pytest.raises(UsageError, match="cannot take examples of shape"):
        nets.build("convnet", spec(5), rng(0))
    with pytest.raises(UsageError, match="no net family 'transfomer'"):
        nets.build("transfomer", spec(5), rng(0))


@pytest.mark.parametrize("shape", [(2, 3, 6, 8), (1, 1, 2, 2), (2, 2, 7, 5)])
def test_halving_is_average_pooling(shape):
    x = torch.randn(shape, dtype=torch.float64, generator=rng(0))
    torch.testing.assert_close(Halve()(x), F.avg_pool2d(x, 2), rtol=0, atol=1e-15)
    last = x.clone().contiguous(memory_format=torch.channels_last).requires_grad_()
    Halve()(last).square().sum().backward()
    expected = x.clone().requires_grad_()
    F.avg_pool2d(expected, 2).square().sum().backward()
    torch.testing.assert_close(last.grad, expected.grad, rtol=0, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halving_in_halves(dtype):
    x, expected = (torch.randn(2, 3, 4, 6, generator=rng(0)).to(dtype).requires_grad_() for _ in range(2))
    Halve()(x).backward(pull := torch.randn(2, 3, 2, 3, generator=rng(1)).to(dtype))
    F.avg_pool2d(expected, 2).backward(pull)
    assert torch.equal(x.grad, expected.grad)


def test_halving_has_first_second_and_forward_derivatives():
    x = torch.randn(2, 2, 4, 6, dtype=torch.float64, generator=rng(0)).requires_grad_()
    assert torch.autograd.gradcheck(Halve(), (x,), check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(lambda v: Halve()(v) ** 3, (x,))


@pytest.mark.parametrize(("family", "size"), [("convnet", {"width": 4}), ("vit", {"width": 8, "depth": 1})])
def test_second_derivatives_go_through_a_whole_net(family, size):
    """What gradient matching and trajectory matching need; against finite differences."""
    net = nets.build(family, spec(1, 8, 8, classes=3), rng(0), **size).double()
    x = torch.randn(2, 1, 8, 8, dtype=torch.float64, generator=rng(1)).requires_grad_()
    y = torch.tensor([0, 2])

    def gradient_norm(x: torch.Tensor) -> torch.Tensor:
        return sum(g.square().sum() for g in torch.autograd.grad(F.cross_entropy(net(x), y), list(net.parameters()), create_graph=True))

    (gradient,) = torch.autograd.grad(gradient_norm(x), x)
    step = torch.randn(x.shape, dtype=torch.float64, generator=rng(2)) * 1e-6
    slope = (gradient_norm(x + step) - gradient_norm(x - step)) / 2
    torch.testing.assert_close((gradient * step).sum(), slope, rtol=1e-5, atol=0)


def test_an_embedding_does_not_depend_on_what_else_is_in_the_batch_unless_it_says_so():
    x = torch.randn(4, 1, 8, 8, generator=rng(1))
    for family, kind in nets.FAMILIES.items():
        if 3 in kind.axes:
            net = nets.build(family, spec(1, 8, 8), rng(0), **narrow(family))
            alone = torch.cat([net.embed(x[:2]), net.embed(x[2:])])
            assert torch.allclose(net.embed(x), alone, atol=1e-5) != kind.batch_norm, family


def test_the_largest_activation_is_known_without_running_the_net():
    assert nets.largest_activation(nets.build("convnet", spec(3, 32, 32), rng(0)), (3, 32, 32)) == 128 * 32 * 32 * 4
    assert nets.largest_activation(nets.build("mlp", spec(5), rng(0), width=300), (5,)) == 300 * 4


@pytest.mark.parametrize("side", [32, 64])
def test_a_narrow_residual_net_has_the_gradients_of_its_double(side):
    """At 64 x 64 the process would end, were the stride of the way around left to oneDNN; see `Around`."""
    x = torch.randn(8, 3, side, side, generator=rng(1))
    net = nets.build("resnet", spec(3, side, side), rng(0), width=8)
    double = copy.deepcopy(net).double()
    ours, theirs = (torch.autograd.grad(f(z).square().mean(), list(f.parameters())) for f, z in ((net, x), (double, x.double())))
    for one, other in zip(ours, theirs, strict=True):
        assert (one - other).norm() < 0.05 * other.norm()  # a few ReLUs fall to the other side of zero
