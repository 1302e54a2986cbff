"""Rollouts: the student's own way from noise, every jump held against the teacher's path."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from hypersd import bases, recipe
from hypersd.diffusion.segments import NOWHERE, Segments
from hypersd.diffusion.solver import jump
from hypersd.distill import losses, paths, resolve
from hypersd.distill.randomness import generators, shared
from hypersd.distill.rollout import rollout
from hypersd.distill.step import STUDENT, Nets, draw_batch
from hypersd.lora.roles import Roles
from hypersd.recipe import Draw, Teacher

ROUTES = [[999], [999, 749, 499, 249]]


@pytest.fixture(scope="module")
def toy():
    return bases.load("toy", "cpu", std=0.5)


@pytest.fixture(scope="module")
def nets(toy):
    roles = Roles(toy.unet)
    roles.add(STUDENT, 1, toy.lora_targets)
    for parameter in roles.parameters(STUDENT).values():
        torch.nn.init.normal_(parameter, std=0.1)
    return Nets(toy, roles)


@pytest.fixture(scope="module")
def kept(toy, tmp_path_factory):
    teacher = Teacher(guidance=(1.0, 1.0), substeps=5)
    return paths.load(toy, paths.Settings(pool=16), teacher, 8, tmp_path_factory.mktemp("paths"))


def draw(toy, kept, size=12, share=1.0, routes=ROUTES):
    rngs = generators(0, 0, 0, range(size))
    drawn = kept.draw(rngs)
    how = Draw(points=8, end="visited", visited_share=share)
    return draw_batch(toy, drawn.latents, drawn.cond, rngs, Segments(1, 8), how, routes, (1.0, 1.0))


def by_hand(toy, nets, batch, sample):
    """One sample alone: the sum of its jumps' squared misses, the way written out."""
    stops = list(dict.fromkeys(batch.route[sample].tolist()))
    x, total = batch.path[sample : sample + 1, -1], torch.zeros(())
    for t, end in pairwise(stops):
        with nets.roles.play(STUDENT):
            x0, eps = toy.predict(x, torch.tensor([t]), batch.cond[sample : sample + 1])
        x = jump(toy.schedule, x0, eps, torch.tensor([end]))
        total = total + (x - batch.path[sample, (end + 1) // 125]).square().mean()
    return total


def gradients(nets, loss):
    return torch.autograd.grad(loss, list(nets.roles.parameters(STUDENT).values()))


def with_eta(toy, samples, visited):
    rngs, x0 = generators(0, 0, 0, samples), torch.zeros(len(samples), *toy.latent_shape())
    how = Draw(points=8, end="visited", visited_share=1.0, eta=1.0)
    return draw_batch(toy, x0, toy.encode([""] * len(samples)), rngs, Segments(1, 8), how, visited, (1.0, 1.0))


def test_a_rollout_is_every_samples_own_way_from_noise(toy, nets, kept):
    """Loss and gradient equal those of the samples walked one at a time, gradients flowing from jump to jump."""
    batch = draw(toy, kept)
    assert {len(set(route)) for route in batch.route.tolist()} == {2, 5}
    loss = losses.load("rollout", {"distance": "mse"}).student(batch, nets)
    expected = torch.stack([by_hand(toy, nets, batch, sample) for sample in range(12)]).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    for mine, theirs in zip(gradients(nets, loss), gradients(nets, expected), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)


def test_with_eta_it_lands_lower_and_is_noised_again(toy, nets):
    """TCD's sampling, with each sample's own noise; half of the samples have no η."""
    batch = with_eta(toy, range(12), [[999, 749, 499]])
    assert 2 < (batch.eta > 0).sum() < 10
    assert batch.eta.max() <= 1
    assert 0.8 < batch.again.std() < 1.2
    got, x = rollout(batch, nets), batch.eps
    for column, (t, end) in enumerate(((999, 749), (749, 499), (499, -1)), 1):
        lands = torch.tensor([int((1 - float(eta)) * end) if end > 0 else -1 for eta in batch.eta])
        with nets.roles.play(STUDENT):
            x0, eps = toy.predict(x, torch.full((12,), t), batch.cond)
        landed = jump(toy.schedule, x0, eps, lands)
        (mine,) = (made for made in got.jumps if made.t[0] == t)
        assert torch.equal(mine.end, lands)
        torch.testing.assert_close(mine.landed, landed)
        ratio = (toy.schedule.alpha[max(end, 0)] / toy.schedule.alpha[lands.clamp(min=0)]).view(-1, 1, 1, 1)
        x = ratio * landed + (1 - ratio**2).clamp(min=0).sqrt() * batch.again[:, column]
    torch.testing.assert_close(got.final, x)


def test_with_eta_a_sample_is_drawn_as_it_would_be_alone_and_as_before(toy, nets):
    """So that neither micro-batches, nor processes, nor an opponent that draws anew change what is trained."""
    visited = [[999], [999, 749, 499, 249]]
    batch = with_eta(toy, range(12), visited)
    assert {len(set(route)) for route in batch.route[batch.eta > 0].tolist()} == {2, 5}
    together, before = rollout(batch, nets).final, [rng.get_state() for rng in batch.rngs]
    alone = [rollout(with_eta(toy, range(i, i + 1), visited), nets).final for i in range(12)]
    torch.testing.assert_close(together, torch.cat(alone))
    torch.testing.assert_close(together, rollout(batch, nets).final, rtol=0, atol=0)
    assert all(torch.equal(was, rng.get_state()) for was, rng in zip(before, batch.rngs, strict=True))


def test_together_an_updates_samples_are_all_drawn_in_the_same_number_of_steps(toy):
    """In every process and micro-batch, each number as often as without; those that are on no route stay there."""
    visited, x0 = [[999], [999, 499], [999, 499]], torch.zeros(6, *toy.latent_shape())
    routes = []
    for update in range(60):
        for share, samples in ((1.0, range(6)), (1.0, range(6, 12)), (0.5, range(6))):
            how = Draw(points=8, visited_share=share, together=True)
            rngs, common = generators(0, 0, update, samples), shared(0, 0, update)
            cond = toy.encode([""] * 6)
            batch = draw_batch(toy, x0, cond, rngs, Segments(1, 8), how, visited, (1.0, 1.0), common)
            routes.append({tuple(route) for route in batch.route.tolist()})
    whole, other, half = routes[::3], routes[1::3], routes[2::3]
    assert all(len(route) == 1 for route in whole)
    assert whole == other
    assert 0.5 < sum(route == {(999, 499, -1)} for route in whole) / 60 < 0.83
    off = {(NOWHERE,) * 3}
    assert all(mixed - off <= on for mixed, on in zip(half, whole, strict=True))
    assert 40 < sum(mixed > on for mixed, on in zip(half, whole, strict=True)) <= 60


def test_eta_and_paths_do_not_go_together():
    stages = [{"segments": 1, "iterations": 1}]
    draw = {"points": 8, "end": "visited", "visited_share": 1.0, "samplers": ["ddim"], "eta": 0.5}
    values = {"name": "x", "data": {"kind": "paths"}, "draw": draw, "losses": {"rollout": {}}, "stages": stages}
    with pytest.raises(ValueError, match=r"rollout.* of stage 1 follows paths, .*set draw.eta=0"):
        resolve.check(recipe.parse(values))


def test_one_step_is_the_regression_of_one_jump(toy, nets, kept):
    batch = draw(toy, kept, routes=[[999]])
    rollout, regression = (losses.load(name, {}).student(batch, nets) for name in ("rollout", "regression"))
    torch.testing.assert_close(rollout, regression)


def test_without_a_samplers_timesteps_it_says_what_to_set(toy, nets, kept):
    with pytest.raises(ValueError, match=r"set draw.visited_share=1"):
        losses.load("rollout", {}).student(draw(toy, kept, share=0.5), nets)
