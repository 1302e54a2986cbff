"""The jump, guidance, and the order of the solver against exact flow maps."""

from __future__ import annotations

from itertools import pairwise
from math import log

import pytest
import torch
from diffusers import DDIMScheduler

from hypersd.bases.sd15 import ddim_config
from hypersd.bases.toy import Gaussian, Mixture
from hypersd.diffusion.grids import solver_grid
from hypersd.diffusion.schedule import PREDICTIONS, flow, scaled_linear
from hypersd.diffusion.segments import Segments
from hypersd.diffusion.solver import full, guide, jump, ode_step, ode_walk

SCHEDULE = scaled_linear()
EVERY_T = torch.arange(1000)
SPREAD = Gaussian(torch.tensor([0.3, 0.5, 1.0, 2.0]))
MODES = Mixture(torch.tensor([0.3, 0.7]), torch.tensor([-1.0, 0.8]), torch.tensor([0.3, 0.2]))


def predictor(schedule, net):
    return lambda x, t: schedule.split(net(x, t), x, t)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_jump_to_t_gives_x_t_back(prediction):
    """So that no boundary scalings are needed."""
    schedule = flow() if prediction == "flow" else scaled_linear(prediction=prediction)
    x_t, output = normal(1000, 8), normal(1000, 8, seed=1)
    x0, eps = schedule.split(output, x_t, EVERY_T)
    torch.testing.assert_close(jump(schedule, x0, eps, EVERY_T), x_t, rtol=0, atol=2e-6)


def test_one_step_is_diffusers_ddim():
    scheduler = DDIMScheduler(**ddim_config())
    scheduler.set_timesteps(4)
    x_t, eps = normal(2, 4, 8, 8), normal(2, 4, 8, 8, seed=1)
    for t, s in pairwise([999, 749, 499, 249, -1]):
        ours = ode_step(SCHEDULE, predictor(SCHEDULE, lambda *_: eps), x_t, full(t, x_t), full(s, x_t))
        torch.testing.assert_close(ours, scheduler.step(eps, t, x_t).prev_sample, rtol=1e-6, atol=1e-6)


def test_guidance_is_the_ordinary_convention():
    cond, null = normal(3, 4, 8, 8), normal(3, 4, 8, 8, seed=1)
    assert torch.equal(guide(cond, null, 1.0), cond)
    assert torch.equal(guide(cond, null, 0.0), null)
    torch.testing.assert_close(guide(cond, null, 7.5), 7.5 * cond - 6.5 * null, rtol=0, atol=2e-5)
    scales = torch.tensor([1.0, 0.0, 3.0])
    each = guide(cond, null, scales)
    assert torch.equal(each[0], cond[0])
    assert torch.equal(each[1], null[1])
    torch.testing.assert_close(each[2], 3 * cond[2] - 2 * null[2], rtol=0, atol=1e-5)


def test_guiding_x0_and_eps_apart_is_guiding_the_output():
    """One x_t, nothing clipped: (x0, ε) of the guided output, computed from the two pairs."""
    x_t, cond, null = (normal(4, 8, seed=seed) for seed in range(3))
    t = torch.tensor([0, 99, 599, 999])
    (x0, eps), (null_x0, null_eps) = (SCHEDULE.split(output, x_t, t) for output in (cond, null))
    guided_x0, guided_eps = SCHEDULE.split(guide(cond, null, 5.0), x_t, t)
    torch.testing.assert_close(guide(x0, null_x0, 5.0), guided_x0, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(guide(eps, null_eps, 5.0), guided_eps, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("k", [1, 2, 4, 8])
def test_on_straight_paths_every_end_is_consistent(k):
    """Eq. 4 and 5: where the trajectory is a chord (data in one point) both jumps meet at any end."""
    point, segments = 0.7, Segments(k)

    def exact(x, t):
        alpha, sigma = SCHEDULE.at(t, 2)
        return SCHEDULE.split((x - alpha * point) / sigma, x, t)

    t = segments.grid.repeat(5)
    x_t, u = normal(len(t), 3), torch.linspace(0, 0.999, len(t))
    s, end = segments.previous(t), segments.end(t, u, "uniform")
    x_s = ode_step(SCHEDULE, exact, x_t, t, s)
    from_t, from_s = ode_step(SCHEDULE, exact, x_t, t, end), ode_step(SCHEDULE, exact, x_s, s, end)
    torch.testing.assert_close(from_t, from_s, rtol=0, atol=2e-5)


@pytest.mark.parametrize("k", [1, 2, 4, 8])
def test_at_the_first_point_the_target_is_the_teachers_step(k):
    segments = Segments(k)
    t = segments.grid[:: 40 // k]
    s, end = segments.previous(t), segments.end(t, torch.full((k,), 0.99), "uniform")
    x_t, student = normal(k, 4), normal(k, 4, seed=1)
    x_s = ode_step(SCHEDULE, predictor(SCHEDULE, SPREAD.eps), x_t, t, s)
    target = ode_step(SCHEDULE, predictor(SCHEDULE, lambda *_: student), x_s, s, end)
    torch.testing.assert_close(target, x_s, rtol=0, atol=1e-6)


def slopes(errors: list[torch.Tensor], strides: list[int]) -> torch.Tensor:
    """The measured order between each two strides."""
    pairs = zip(pairwise(errors), pairwise(strides), strict=True)
    return torch.stack([(coarse / fine).log() / log(a / b) for (coarse, fine), (a, b) in pairs])


def walk_errors(toy, x: torch.Tensor, strides: list[int], first: int = 999) -> list[torch.Tensor]:
    """Error of DDIM's walk to the end at each stride, root mean square over the batch."""
    exact = toy.flow(x, full(first, x), full(-1, x))
    predict, errors = predictor(toy.schedule, toy.eps), []
    for stride in strides:
        grid = [*solver_grid(1000 // stride)[::-1], -1]
        errors.append((ode_walk(toy.schedule, predict, x, grid) - exact).square().mean(0).sqrt())
    return errors


def test_ddim_is_first_order_on_a_gaussian():
    errors = walk_errors(SPREAD, normal(64, 4), [40, 20, 10])
    coarse, fine = slopes(errors, [40, 20, 10])
    assert ((coarse > 0.83) & (coarse < 1.02)).all()
    assert ((fine > 0.9) & (fine < 1.02)).all()
    assert (fine > coarse).all()  # on its way to 1
    assert (errors[-1] < 0.02).all()


def test_ddim_is_first_order_on_a_mixture():
    """The exact flow map matches quantiles; those given are from 2 % to 98 %, both modes and the gap."""
    quantiles = torch.distributions.Normal(0, 1).icdf(torch.linspace(0.02, 0.98, 49))
    errors = walk_errors(MODES, quantiles, [40, 20, 10])
    coarse, fine = slopes(errors, [40, 20, 10])
    assert 0.75 < coarse < 1.05
    assert 0.85 < fine < 1.05
    assert errors[-1] < 0.02


def test_one_jump_is_second_order_in_its_length():
    """Locally one order more, which is why a jump over a whole segment is so far off."""
    t, lengths = 499, [80, 40, 20, 10]
    x = normal(64, 4)
    errors = []
    for length in lengths:
        at, to = full(t, x), full(t - length, x)
        x0, eps = SCHEDULE.split(SPREAD.eps(x, at), x, at)
        errors.append((jump(SCHEDULE, x0, eps, to) - SPREAD.flow(x, at, to)).square().mean(0).sqrt())
    torch.testing.assert_close(slopes(errors, lengths), torch.full((3, 4), 2.0), rtol=0, atol=0.13)
