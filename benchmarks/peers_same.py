"""Whether ours and the reference implementations compute the same: given one network, one batch and one draw of the augmentation, the
relative difference of the loss and of its gradient. For `peers.py`.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from contextlib import contextmanager

from common import reference_task


def relative(ours, theirs) -> float:
    return float((ours - theirs).norm() / theirs.norm())


def setting(real: int):
    """(our net, theirs with the same weights, real (10, real, 3, 32, 32), fake (10, 10, 3, 32, 32), their utils)"""
    import peers_theirs
    import torch

    from datadistill import nets
    from datadistill.rng import rng

    peers_theirs.use("DatasetCondensation")
    import utils

    task = reference_task()
    net, other = nets.build("convnet", task.spec, rng(0, "net")), utils.get_network("ConvNet", 3, 10)
    other.load_state_dict(dict(zip(other.state_dict(), net.state_dict().values(), strict=True)))
    rows = torch.stack([task.train.indices(c)[: real + 10] for c in range(10)])
    pictures = [task.train.read(part.reshape(-1)).view(10, -1, 3, 32, 32) for part in (rows[:, 10:], rows[:, :10])]
    return net, other, *pictures, utils


def dm() -> dict:
    import torch

    from datadistill.match import distribution
    from datadistill.memory import Pieces

    net, other, real, fake, _ = setting(256)
    net.requires_grad_(False)
    leaf = fake.clone().requires_grad_()
    total = sum(((other.embed(real[c]).detach().mean(0) - other.embed(leaf[c]).mean(0)) ** 2).sum() for c in range(10))
    (expected,) = torch.autograd.grad(total, leaf)
    flat, labels = real.flatten(0, 1), torch.arange(10).repeat_interleave(256)
    target = distribution.means(lambda x, c: net.embed(x), lambda piece: flat[piece], labels, 10, Pieces(32))
    loss, gradient = distribution.descent(lambda x, c: net.embed(x), fake.flatten(0, 1), torch.arange(10).repeat_interleave(10), target, Pieces(32))
    return {"loss": relative(loss, total.detach()), "gradient": relative(gradient.view_as(expected), expected)}


def condensation(augment: bool, real: int = 64) -> dict:
    """One outer step's loss and gradient by S, the augmentation drawn by us and given to both. The nets are in float64, where no rounding
    sets a ReLU on its other side, which moves a second derivative by 1e-3 or so."""
    import peers_theirs
    import torch
    import torch.nn.functional as F

    from datadistill.match import gradient
    from datadistill.memory import Pieces
    from datadistill.methods.dc import class_match, match_classes
    from datadistill.modalities.image import OPERATIONS, Siamese
    from datadistill.rng import rng
    from datadistill.run import Run

    net, other, pictures, fake, utils = setting(real)
    net.double(), other.double()
    param, parameters = utils.ParamDiffAug(), list(other.parameters())
    draws = Siamese(torch.arange(10) % len(OPERATIONS), torch.rand((10, 4), generator=rng(0, "u")))

    def seen(x, c: int):
        if not augment:
            return x.double()
        with drawn(draws.op[c], draws.u[c]):
            return utils.DiffAugment(x, peers_theirs.STRATEGY, seed=0, param=param).double()

    leaf, total = fake.clone().requires_grad_(), torch.zeros(())
    for c in range(10):
        target = torch.autograd.grad(F.cross_entropy(other(seen(pictures[c], c)), torch.full((real,), c)), parameters)
        source = torch.autograd.grad(F.cross_entropy(other(seen(leaf[c], c)), torch.full((10,), c)), parameters, create_graph=True)
        total = total + utils.match_loss(source, target, types.SimpleNamespace(device="cpu", dis_metric="ours"))
    (expected,) = torch.autograd.grad(total, leaf)

    task = reference_task()
    own = [(c, task.train.indices(c)[10 : 10 + real]) for c in range(10)]
    run = Run(0)

    def losses(x, c):
        return F.cross_entropy(net((draws(x, c) if augment else x).double()), c, reduction="sum")

    match = class_match(lambda _: losses, gradient.weights(net), task, run, Pieces(32))
    loss, pull = match_classes(match, own, None, fake.flatten(0, 1), torch.arange(10).repeat_interleave(10), task)
    return {"loss": relative(loss, total.detach()), "gradient": relative(pull.view_as(expected), expected)}


@contextmanager
def drawn(op, u) -> Iterator[None]:
    """Their augmentation draws what ours drew: the operation first, then u, one number after the other, whatever it seeds itself with."""
    import torch

    numbers = iter(u.tolist())
    kept = torch.rand, torch.randint, torch.random.manual_seed

    def randint(low, high, size, **_):
        return torch.full(size, int(op)) if tuple(size) == (1,) else torch.full(size, low + int(next(numbers) * (high - low)))

    torch.rand = lambda *size, **_: torch.full(size, next(numbers))
    torch.randint, torch.random.manual_seed = randint, lambda seed: None
    try:
        yield
    finally:
        torch.rand, torch.randint, torch.random.manual_seed = kept


def mtt(steps: int = 10) -> dict:
    """A segment of their distill.py without augmentation, looked at when its optimiser is about to step, and ours of the same segment, in
    float64 both."""
    import peers_theirs
    import torch
    from peers import as_lists, walk
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    from datadistill import nets
    from datadistill.match import trajectory
    from datadistill.methods import MTT
    from datadistill.rng import rng
    from datadistill.run import Run
    from datadistill.training.unroll import Flat, unroll

    path, told, stepped = walk(0).double(), {}, []
    register_optimizer_step_pre_hook(lambda optimizer, *_: stepped.append([(p.detach().clone(), p.grad.clone()) for p in optimizer.param_groups[0]["params"]]))
    peers_theirs.trajectory(1, 0, steps, [as_lists(path)], lambda values, **_: told.update(values), "--no_aug", "True", precise=True)
    (x, dx), (alpha, d_alpha) = stepped[0][0], stepped[1][0]
    task, t = reference_task(1), int(told["Start_Epoch"])
    flat = Flat(nets.build("convnet", task.spec, rng(0)).double())
    leaf, rate = x.double().requires_grad_(), alpha.double().requires_grad_()
    loss = MTT(augment=False).loss(flat, task, Run(0), torch.arange(10), 0)
    (theta,) = unroll(loss, (path[t],), rate, (leaf,), steps)
    found = trajectory.distance(theta, path[t], path[t + 2])
    found.backward()
    return {"loss": relative(found.detach(), told["Grand_Loss"]), "gradient": relative(leaf.grad, dx), "gradient_of_the_rate": relative(rate.grad, d_alpha)}


def epoch() -> dict:
    """The gradient by the weights that one batch gives the student."""
    import torch
    import torch.nn.functional as F

    net, other, _, fake, _ = setting(1)
    x, y = fake.flatten(0, 1), torch.arange(10).repeat_interleave(10)
    losses = [F.cross_entropy(n(x), y) for n in (net, other)]
    ours, theirs = (torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(n.parameters()))]) for loss, n in zip(losses, (net, other), strict=True))
    return {"loss": relative(losses[0].detach(), losses[1].detach()), "gradient": relative(ours, theirs)}


CHECKS = {"dm": dm, "dc": lambda: condensation(False), "dsa": lambda: condensation(True), "mtt": mtt, "epoch": epoch}
