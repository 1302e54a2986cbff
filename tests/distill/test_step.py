"""The step of Eq. 12, on the toy, where every quantity is known."""

from __future__ import annotations

import pytest
import torch

from hypersd import bases
from hypersd.diffusion.segments import Segments
from hypersd.distill import losses
from hypersd.distill.randomness import generators
from hypersd.distill.step import Nets, draw_batch, tscd
from hypersd.lora.roles import Roles
from hypersd.recipe import Draw


@pytest.fixture
def toy():
    return bases.load("toy", "cpu", std=0.5)


@pytest.fixture
def nets(toy):
    roles = Roles(toy.unet)
    roles.add("student", 1, toy.lora_targets)
    return Nets(toy, roles)


def batch_of(toy, draw: Draw, k: int = 4, size: int = 64, visited=(), guidance=(1.0, 1.0)):
    x0 = 0.5 * torch.randn(size, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    rngs = generators(0, 0, 0, range(size))
    return draw_batch(toy, x0, toy.encode([""] * size), rngs, Segments(k), draw, list(visited), guidance)


def test_teacher_step_is_one_ddim_step_of_the_exact_eps(toy, nets):
    batch = batch_of(toy, Draw())
    step = tscd(batch, nets)
    eps = toy.data.eps(batch.x_t, batch.t)
    alpha_t, sigma_t = toy.schedule.at(batch.t, 4)
    alpha_s, sigma_s = toy.schedule.at(batch.s, 4)
    expected = alpha_s * (batch.x_t - sigma_t * eps) / alpha_t + sigma_s * eps
    torch.testing.assert_close(step.x_s, expected, rtol=1e-4, atol=1e-5)


def test_substeps_are_the_steps_of_a_finer_grid(toy, nets):
    """Five substeps on 8 points walk through the very timesteps of 40 points, to the last one at −1."""
    draw = Draw(points=8, end="start")
    x0 = torch.zeros(64, 1, 8, 8)
    batch = draw_batch(
        toy, x0, toy.encode([""] * 64), generators(0, 0, 0, range(64)), Segments(8, 8), draw, [], (1.0, 1.0)
    )
    nets.substeps = 5
    expected, t = batch.x_t, batch.t
    for _ in range(5):
        s = Segments(8, 40).previous(t)
        eps = toy.data.eps(expected, t)
        _, sigma = toy.schedule.at(t, 4)
        x0 = (expected - sigma * eps) / toy.schedule.at(t, 4)[0]
        expected, t = toy.schedule.add_noise(x0, eps, s), s
    assert torch.equal(t, batch.s)
    assert (batch.s == -1).any()
    torch.testing.assert_close(nets.teacher_step(batch), expected, rtol=1e-4, atol=1e-5)


def test_untrained_student_is_the_teacher_so_the_loss_is_the_curvature_of_the_path(toy, nets):
    """Its chord t → end misses the teacher's two chords t → s → end by exactly their difference."""
    batch = batch_of(toy, Draw(end="start"))
    step = tscd(batch, nets)
    chord = toy.data.eps(batch.x_t, batch.t)
    x0 = (batch.x_t - toy.schedule.at(batch.t, 4)[1] * chord) / toy.schedule.at(batch.t, 4)[0]
    torch.testing.assert_close(step.x_end, toy.schedule.add_noise(x0, chord, batch.end), rtol=1e-4, atol=1e-5)
    assert (step.x_end - step.target).abs().max() > 1e-3


def test_at_a_segments_first_point_the_target_is_the_teachers_step(toy, nets):
    batch = batch_of(toy, Draw(), size=512)
    step = tscd(batch, nets)
    first = batch.s == batch.end
    assert first.sum() > 12  # 4 of 40 points, and uniform ends that fall on s
    assert torch.equal(step.target[first], step.x_s[first])


def test_only_the_student_gets_gradient(toy, nets):
    nets.roles.add("target", 1, toy.lora_targets, seed=1)
    nets.target = "target"
    loss = losses.load("consistency", {"distance": "mse"}).student(batch_of(toy, Draw()), nets)
    loss.backward()
    assert nets.roles.parameters("student")["table.lora_embedding_A"].grad.abs().max() > 0
    assert all(p.grad is None for p in nets.roles.parameters("target").values())


def test_guidance_is_in_the_teachers_step(tiny_base):
    """w = 3 moves x_s by 3 times what the condition adds to the empty prompt; the student never sees w."""
    roles = Roles(tiny_base.unet)
    roles.add("student", 2, tiny_base.lora_targets)
    nets = Nets(tiny_base, roles)
    x0 = torch.randn(4, *tiny_base.latent_shape(), generator=torch.Generator().manual_seed(0))
    cond = tiny_base.encode(["a red bird"] * 4)

    def x_s(guidance):
        rngs = generators(0, 0, 0, range(4))
        scale = (guidance, guidance)
        return tscd(draw_batch(tiny_base, x0, cond, rngs, Segments(2), Draw(), [], scale), nets).x_s

    null, plain, guided = x_s(0.0), x_s(1.0), x_s(3.0)
    torch.testing.assert_close(guided - null, 3 * (plain - null), rtol=1e-3, atol=1e-5)
    assert (plain - null).abs().max() > 1e-4


def test_pure_noise_replaces_only_the_noisiest_timestep(toy):
    visited = [[999]]
    batch = batch_of(toy, Draw(visited_share=0.5, pure_noise=0.5), size=400, visited=visited)
    top = batch.t == 999
    pure = (batch.x_t == batch.eps).flatten(1).all(1)
    assert not pure[~top].any()
    assert 0.35 < pure[top].float().mean() < 0.65


def test_a_sample_does_not_depend_on_its_batch(toy):
    whole = [g.initial_seed() for g in generators(3, 1, 7, range(8))]
    half = [g.initial_seed() for g in generators(3, 1, 7, range(4, 8))]
    assert whole[4:] == half
    assert len(set(whole)) == 8
    assert whole != [g.initial_seed() for g in generators(3, 1, 8, range(8))]


def test_pseudo_huber_is_between_its_limits(toy, nets):
    batch = batch_of(toy, Draw(end="start"))
    difference = nets.once(tscd, batch).x_end - nets.once(tscd, batch).target
    small = losses.load("consistency", {"distance": "huber", "c": 1e-6}).student(batch, nets)
    large = losses.load("consistency", {"distance": "huber", "c": 1e3}).student(batch, nets)
    assert small.item() == pytest.approx(difference.abs().mean().item(), rel=1e-2)
    assert large.item() == pytest.approx(difference.square().mean().item() / 2e3, rel=0.2)


def test_what_losses_share_is_computed_once_a_batch(toy, nets):
    calls = []

    def compute(batch, nets):
        calls.append(batch)
        return len(calls)

    first, second = batch_of(toy, Draw()), batch_of(toy, Draw())
    assert [nets.once(compute, batch) for batch in (first, first, second, first)] == [1, 1, 2, 3]
    assert torch.equal(nets.once(tscd, first).x_end, tscd(first, nets).x_end)
