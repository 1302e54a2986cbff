"""The closed form that the golden run is compared to: the table of docs/paper_index.md, and its reasons."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hypersd.bases.toy import Toy
from hypersd.diffusion.grids import trailing
from hypersd.diffusion.solver import ode_walk
from tests.diffusion.fixed_point import ALPHA, SIGMA, coefficients, flow_gain, gain, teacher, teacher_gain

# s0: exact flow, 40-step teacher, start (any k), uniform k = 8, 4, 2, 1
TABLE = {
    0.2: (0.2025, 0.1710, 0.1710, 0.1506, 0.1321, 0.1082, 0.0862),
    0.5: (0.5015, 0.4714, 0.4714, 0.4440, 0.4105, 0.3487, 0.2696),
    1.0: (1.0000, 0.9664, 0.9664, 0.9343, 0.8961, 0.8156, 0.6626),
}
KS = (8, 4, 2, 1)


@pytest.mark.parametrize("std", TABLE)
def test_gains_are_those_of_the_table(std):
    flow, solver, start, *uniform = TABLE[std]
    assert flow_gain(std) == pytest.approx(flow, abs=6e-5)
    assert teacher_gain(std) == pytest.approx(solver, abs=6e-5)
    assert [gain(std, k, "start") for k in KS] == pytest.approx([start] * 4, abs=6e-5)
    assert [gain(std, k, "uniform") for k in KS] == pytest.approx(uniform, abs=6e-5)


@pytest.mark.parametrize("k", KS)
@pytest.mark.parametrize("points", [40, 200])
def test_end_at_the_start_composes_the_teacher_exactly(k, points):
    assert gain(0.5, k, "start", points) == pytest.approx(teacher_gain(0.5, points), rel=1e-12)


def test_a_finer_grid_brings_the_teacher_to_the_flow_but_not_the_uniform_student():
    assert abs(teacher_gain(0.5, 200) - flow_gain(0.5)) < 0.25 * abs(teacher_gain(0.5) - flow_gain(0.5))
    assert gain(0.5, 1, "uniform", 200) < 0.6 * flow_gain(0.5)


@pytest.mark.parametrize("k", KS)
def test_the_first_point_of_a_segment_is_the_teacher(k):
    student = coefficients(0.5, k, "uniform")
    for t in range(24, 1000, 1000 // k):
        assert student[t] == pytest.approx(teacher(0.5, t), rel=1e-9)


def test_the_optimum_is_the_weighted_mean_over_ends_that_the_theory_names():
    """c(t) = Σ g² (w ε_teacher + (1 − w) ε(s)) / Σ g², w = (η_t − η_s) / (η_t − η_e), g = σ_e − α_e η_t."""
    std, t = 0.5, 549
    s, ends = t - 25, np.arange(499, t - 25 + 1)
    eta = SIGMA / ALPHA
    student = coefficients(std, 2, "uniform")
    arrived = ALPHA[s] * (1 - SIGMA[t] * teacher(std, t)) / ALPHA[t] + SIGMA[s] * teacher(std, t)
    share = (eta[t] - eta[s]) / (eta[t] - eta[ends])
    each = share * teacher(std, t) + (1 - share) * student[s] * arrived
    weight = (SIGMA[ends] - ALPHA[ends] * eta[t]) ** 2
    assert student[t] == pytest.approx((weight * each).sum() / weight.sum(), rel=1e-9)


@pytest.mark.parametrize("end", ["uniform", "start"])
@pytest.mark.parametrize("k", KS)
def test_the_toy_with_these_coefficients_draws_this_gain(k, end):
    """The same student in the package's own float32: a table in the toy's network, DDIM trailing, k steps."""
    toy = Toy(std=0.5)
    for t, c in coefficients(0.5, k, end).items():
        toy.unet.table.weight[t] = c
    noise = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    cond = toy.encode(["", ""])
    drawn = ode_walk(toy.schedule, lambda x, t: toy.predict(x, t, cond), noise, [*trailing(k), -1])
    torch.testing.assert_close(drawn, gain(0.5, k, end) * noise, rtol=2e-4, atol=1e-6)
