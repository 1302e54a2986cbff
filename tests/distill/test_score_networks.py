"""Score distillation on a UNet: each phase's gradients are those of networks that share nothing."""

from __future__ import annotations

import copy

import pytest
import torch

from hypersd.diffusion.segments import Segments
from hypersd.distill import losses
from hypersd.distill.losses.score import FAKE
from hypersd.distill.randomness import generators
from hypersd.distill.step import STUDENT, Nets, draw_batch, noise, noise_level
from hypersd.lora.roles import Roles
from hypersd.recipe import Draw

GUIDANCE = 3.0


def batch_of(base, size=4):
    rngs = generators(0, 0, 0, range(size))
    x0 = torch.randn(size, *base.latent_shape(), generator=torch.Generator().manual_seed(1))
    draw = Draw(end="visited", visited_share=1.0, pure_noise=1.0)
    routes, scale = [[999], [999, 499]], (GUIDANCE, GUIDANCE)
    return draw_batch(base, x0, base.encode(["a cat"] * size), rngs, Segments(1), draw, routes, scale)


def with_role(base, role, seed):
    """A network of its own with one LoRA of random weights; returns it with its roles."""
    own = copy.deepcopy(base)
    roles = Roles(own.unet)
    add(roles, own, role, seed)
    return own, roles


def add(roles, base, role, seed):
    roles.add(role, 2, base.lora_targets)
    generator = torch.Generator().manual_seed(seed)
    shapes = roles.state(role)
    roles.load(role, {k: 0.2 * torch.randn(v.shape, generator=generator) for k, v in shapes.items()})


@pytest.mark.parametrize("checkpointing", [False, True])
def test_each_phase_trains_its_own(tiny_base, checkpointing):
    plain = copy.deepcopy(tiny_base)
    (drawing, student), (scoring, fake) = with_role(plain, STUDENT, 0), with_role(plain, FAKE, 1)
    loss, roles = losses.load("score", {"weight": 2.0}), Roles(tiny_base.unet)
    add(roles, tiny_base, STUDENT, 0)
    add(roles, tiny_base, FAKE, 1)
    if checkpointing:
        tiny_base.unet.train().enable_gradient_checkpointing(roles.checkpoint)
    nets, batch = Nets(tiny_base, roles), batch_of(tiny_base)
    mine = {role: roles.parameters(role) for role in (STUDENT, FAKE)}

    loss.student(batch, nets).backward()
    assert all(parameter.grad is None for parameter in mine[FAKE].values())
    of_student = {name: parameter.grad.clone() for name, parameter in mine[STUDENT].items()}
    loss.opponent(batch, nets).backward()
    assert all(torch.equal(parameter.grad, of_student[name]) for name, parameter in mine[STUDENT].items())
    trained = {id(parameter) for role in mine.values() for parameter in role.values()}
    assert all(parameter.grad is None for parameter in tiny_base.unet.parameters() if id(parameter) not in trained)

    again, teacher = batch_of(plain), (plain, GUIDANCE)
    final = drawn(drawing, student, again)
    towards = difference(teacher, scoring, fake, final.detach(), again)
    expected = torch.autograd.grad(final, list(student.parameters(STUDENT).values()), 2.0 * towards / final.numel())
    for got, wanted in zip(of_student.values(), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-6)
    missed = denoising(scoring, fake, final.detach(), again)
    expected = torch.autograd.grad(missed, list(fake.parameters(FAKE).values()))
    for parameter, wanted in zip(mine[FAKE].values(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, wanted, rtol=1e-3, atol=1e-6)


def drawn(base, roles, batch):
    """One jump 999 → −1, or two by way of 499, written out."""
    schedule, t = base.schedule, batch.route[:, 0]
    end, middle = torch.full_like(t, -1), torch.full_like(t, 499)
    with roles.play(STUDENT):
        x0, eps = base.predict(batch.eps, t, batch.cond)
        x0_half, eps_half = base.predict(schedule.add_noise(x0, eps, middle), middle, batch.cond)
    twice = (batch.route[:, 1] == 499).view(-1, 1, 1, 1)
    return torch.where(twice, schedule.add_noise(x0_half, eps_half, end), schedule.add_noise(x0, eps, end))


def noised(base, x, batch, span):
    """x of t = −1, whose α is that of t = 0 in SD, carried up to a drawn τ; with τ and the noise."""
    tau = noise_level(batch, span, torch.full_like(batch.end, -1), torch.full_like(batch.end, 999))
    eps = noise(batch)
    ratio = (base.schedule.alpha[tau] / base.schedule.alpha[0]).view(-1, 1, 1, 1)
    return ratio * x + (1 - ratio**2).sqrt() * eps, tau, eps, ratio


@torch.no_grad()
def difference(teacher, scoring, fake, x, batch):
    """(x̂0 of the fake − x̂0 of the guided teacher) / mean |x − x̂0 of the teacher|."""
    (base, scale), schedule = teacher, teacher[0].schedule
    x_t, tau, _, _ = noised(base, x, batch, losses.load("score", {}).settings.span)
    guided = base.predict(x_t, tau, base.null(batch.cond))[1]
    guided = guided + scale * (base.predict(x_t, tau, batch.cond)[1] - guided)
    alpha, sigma = (values[tau].view(-1, 1, 1, 1) for values in (schedule.alpha, schedule.sigma))
    real = (x_t - sigma * guided) / alpha
    with fake.play(FAKE):
        made = scoring.predict(x_t, tau, batch.cond)[0]
    return (made - real) / (x - real).abs().mean((1, 2, 3), keepdim=True)


def denoising(scoring, fake, x, batch):
    """|share · ε̂ − ε|², ε having carried x up to τ."""
    x_t, tau, eps, ratio = noised(scoring, x, batch, (0.0, 1.0))
    share = (1 - ratio**2).sqrt() / scoring.schedule.sigma[tau].view(-1, 1, 1, 1)
    with fake.play(FAKE):
        predicted = scoring.predict(x_t, tau, batch.cond)[1]
    return (share * predicted - eps).square().mean()
