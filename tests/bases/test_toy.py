"""The bases whose truth is known: is it the truth?"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import norm

from hypersd.bases import Base, load
from hypersd.bases.toy import Gaussian, Mixture, Toy
from hypersd.diffusion.schedule import Schedule, scaled_linear
from hypersd.diffusion.solver import full
from hypersd.lora.roles import Roles
from tests.diffusion.fixed_point import ALPHA, SIGMA, teacher

EXACT = Schedule(torch.from_numpy(ALPHA), torch.from_numpy(SIGMA))  # float64, for finite differences
STDS = torch.tensor([0.1, 0.5, 1.0, 2.0], dtype=torch.double)
WEIGHTS, MEANS, SPREADS = [0.3, 0.2, 0.5], [-1.2, 0.1, 0.9], [0.2, 0.05, 0.3]
MIXTURE = Mixture(torch.tensor(WEIGHTS), torch.tensor(MEANS), torch.tensor(SPREADS))


def levels(t: int) -> tuple[np.ndarray, np.ndarray]:
    """Means and standard deviations of the mixture's components at t, as numpy computes them."""
    alpha, sigma = ALPHA[max(t, 0)], SIGMA[max(t, 0)]
    return alpha * np.array(MEANS), np.hypot(alpha * np.array(SPREADS), sigma)


def cdf(x: torch.Tensor, t: int) -> np.ndarray:
    means, stds = levels(t)
    return norm.cdf(x.double().numpy()[:, None], means, stds) @ np.array(WEIGHTS)


def log_density(x: np.ndarray, t: int) -> np.ndarray:
    means, stds = levels(t)
    return np.log(norm.pdf(x[:, None], means, stds) @ np.array(WEIGHTS))


@pytest.mark.parametrize("t", [24, 99, 249, 499, 749, 998])
def test_gaussian_flow_solves_the_ode(t):
    """Along the flow d(x/α) / d(σ/α) = ε: a central difference in float64."""
    gaussian = Gaussian(STDS, EXACT)
    x = torch.randn(5, 4, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    before, after = (gaussian.flow(x, full(t, x), full(u, x)) / ALPHA[u] for u in (t - 1, t + 1))
    slope = (after - before) / (SIGMA[t + 1] / ALPHA[t + 1] - SIGMA[t - 1] / ALPHA[t - 1])
    torch.testing.assert_close(slope, gaussian.eps(x, full(t, x)), rtol=5e-4, atol=0)


def test_gaussian_eps_is_the_regression_of_eps_on_x_t():
    generator = torch.Generator().manual_seed(0)
    x0, eps = 0.5 * torch.randn(200_000, 1, generator=generator), torch.randn(200_000, 1, generator=generator)
    gaussian = Gaussian(torch.tensor([0.5]))
    for t in (24, 499, 999):
        x_t = gaussian.schedule.add_noise(x0, eps, full(t, x0))
        fitted = ((eps * x_t).mean() / x_t.square().mean()).item()
        assert gaussian.eps(torch.ones(1, 1), torch.tensor([t])).item() == pytest.approx(fitted, abs=0.01)
        assert fitted == pytest.approx(teacher(0.5, t), abs=0.01)


def test_gaussian_flow_composes_and_inverts():
    gaussian = Gaussian(STDS, EXACT)
    x = torch.randn(3, 4, dtype=torch.double)
    t, s, end = (full(u, x) for u in (999, 499, -1))
    through = gaussian.flow(gaussian.flow(x, t, s), s, end)
    torch.testing.assert_close(through, gaussian.flow(x, t, end), rtol=1e-12, atol=0)
    torch.testing.assert_close(gaussian.flow(through, end, t), x, rtol=1e-12, atol=0)
    last, first = (torch.hypot(EXACT.alpha[u] * STDS, EXACT.sigma[u]) for u in (0, 999))
    torch.testing.assert_close(through, x * last / first, rtol=1e-12, atol=0)


@pytest.mark.parametrize("t", [0, 24, 249, 499, 999])
def test_mixture_eps_is_the_finite_difference_of_the_log_density(t):
    x = torch.linspace(-2.5, 2.5, 101)
    h, at = 1e-5, x.double().numpy()
    score = (log_density(at + h, t) - log_density(at - h, t)) / (2 * h)
    expected = torch.from_numpy(-SIGMA[t] * score).float()
    torch.testing.assert_close(MIXTURE.eps(x, full(t, x)), expected, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize(("t", "s"), [(999, -1), (999, 499), (499, 249), (249, -1), (24, 999)])
def test_mixture_flow_keeps_quantiles(t, s):
    x = torch.linspace(-2, 2, 81)
    there = MIXTURE.flow(x, full(t, x), full(s, x))
    assert (there[1:] > there[:-1]).all()
    np.testing.assert_allclose(cdf(there, s), cdf(x, t), rtol=0, atol=5e-6)


def test_mixture_flow_solves_the_ode():
    """Matching quantiles and following ε are the same thing in one dimension."""
    x = torch.linspace(-1.5, 1.5, 31, dtype=torch.double)
    mixture = Mixture(MIXTURE.weights, MIXTURE.means, MIXTURE.stds, EXACT)
    for t in (200, 499, 900):
        before, after = (mixture.flow(x, full(t, x), full(u, x)) / ALPHA[u] for u in (t - 1, t + 1))
        slope = (after - before) / (SIGMA[t + 1] / ALPHA[t + 1] - SIGMA[t - 1] / ALPHA[t - 1])
        torch.testing.assert_close(slope, mixture.eps(x, full(t, x)), rtol=1e-3, atol=1e-3)


def test_a_mixture_of_one_is_the_gaussian():
    one = Mixture(torch.ones(1), torch.zeros(1), torch.tensor([0.5]))
    gaussian, x = Gaussian(torch.tensor([0.5])), torch.linspace(-3, 3, 61)
    for t, s in [(999, -1), (999, 249), (249, -1)]:
        at, to = full(t, x), full(s, x)
        torch.testing.assert_close(one.eps(x, at), gaussian.eps(x[:, None], at)[:, 0], rtol=1e-5, atol=1e-6)
        expected = gaussian.flow(x[:, None], at, to)[:, 0]
        torch.testing.assert_close(one.flow(x, at, to), expected, rtol=1e-4, atol=1e-6)


def test_a_shifted_gaussian_flows_with_its_mean():
    mean, std, x = 0.7, 0.3, torch.linspace(-2, 2, 21)
    one = Mixture(torch.ones(1), torch.tensor([mean]), torch.tensor([std]))
    spread = [np.hypot(ALPHA[t] * std, SIGMA[t]) for t in (499, 99)]
    expected = ALPHA[99] * mean + (x - ALPHA[499] * mean) * spread[1] / spread[0]
    torch.testing.assert_close(one.flow(x, full(499, x), full(99, x)), expected, rtol=0, atol=2e-5)


def test_the_toy_is_a_base_that_predicts_the_ideal_eps():
    toy = load("toy", std=0.2)
    assert isinstance(toy, Base)
    x = torch.randn(1000, *toy.latent_shape(), generator=torch.Generator().manual_seed(0))
    t, cond = torch.arange(1000), toy.encode([""] * 1000)
    x0, eps = toy.predict(x, t, cond)
    coefficients = torch.tensor([teacher(0.2, t) for t in range(1000)])[:, None, None, None]
    torch.testing.assert_close(eps, (coefficients * x).float(), rtol=3e-5, atol=1e-6)
    torch.testing.assert_close(scaled_linear().add_noise(x0, eps, t), x, rtol=0, atol=2e-6)
    assert toy.latent_shape(4, 6) == (1, 4, 6)
    assert len(toy.null(cond)) == 1000


def test_a_rank_1_lora_on_the_toy_can_hold_any_linear_student():
    toy = Toy(std=0.5)
    roles = Roles(toy.unet)
    roles.add("student", rank=1, targets=toy.lora_targets)
    x, t, cond = torch.randn(1000, 1, 8, 8), torch.arange(1000), toy.encode([""] * 1000)
    base = toy.predict(x, t, cond)[1]
    with roles.play("student"):
        assert torch.equal(toy.predict(x, t, cond)[1], base)  # a new LoRA changes nothing
        wanted = torch.rand(1000, generator=torch.Generator().manual_seed(0))
        difference = wanted - toy.unet.table.weight[:, 0]
        state = {
            name: torch.ones_like(old) if "_B" in name else difference.view_as(old)
            for name, old in roles.state("student").items()
        }
        roles.load("student", state)
        torch.testing.assert_close(toy.predict(x, t, cond)[1], wanted[:, None, None, None] * x, rtol=1e-5, atol=1e-6)
    assert torch.equal(toy.predict(x, t, cond)[1], base)
