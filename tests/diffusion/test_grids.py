"""The timesteps that solvers and samplers visit, against diffusers' schedulers on SD's own config."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler, LCMScheduler, TCDScheduler

from hypersd.bases.sd15 import ddim_config
from hypersd.diffusion.grids import MAX_STEPS, solver_grid, strided, trailing

STEPS = range(1, MAX_STEPS + 1)

# Where diffusers' DDIM steps to from each of its timesteps, N by N, where that is not its next timestep.
# It subtracts T // N, and so leaves its own (rounded) grid for every N that does not divide 1000, except
# that it always ends on the cleanest level.
INEXACT = {
    3: {666: 333},
    6: {999: 833, 666: 500, 499: 333},
    7: {999: 857, 856: 714, 713: 571, 428: 286, 285: 143},
}


@pytest.mark.parametrize("steps", STEPS)
def test_trailing_is_diffusers_ddim(steps):
    scheduler = DDIMScheduler(**ddim_config())
    scheduler.set_timesteps(steps)
    assert trailing(steps) == scheduler.timesteps.tolist()


@pytest.mark.parametrize("kind", [TCDScheduler, LCMScheduler])
@pytest.mark.parametrize("steps", STEPS)
def test_strided_is_diffusers_tcd_and_lcm(kind, steps):
    scheduler = kind.from_config(ddim_config())
    scheduler.set_timesteps(steps)
    assert strided(steps) == scheduler.timesteps.tolist()


@pytest.mark.parametrize("steps", STEPS)
def test_where_diffusers_ddim_leaves_its_own_grid(steps):
    scheduler = DDIMScheduler(**ddim_config())
    scheduler.set_timesteps(steps)
    grid = trailing(steps)
    arrives = {t: destination(scheduler, t) for t in grid}
    ours = dict(zip(grid, [*grid[1:], 0], strict=True))  # timestep 0 is the level of −1
    assert {t: s for t, s in arrives.items() if s != ours[t]} == INEXACT.get(steps, {})


def destination(scheduler: DDIMScheduler, t: int) -> int:
    """The timestep whose noise level `scheduler.step` reaches: with ε = 0, x is scaled by α_s / α_t."""
    alpha = scheduler.alphas_cumprod.double().sqrt()
    scaled = scheduler.step(torch.zeros(1, dtype=torch.double), t, torch.ones(1, dtype=torch.double))
    return int((alpha - scaled.prev_sample * alpha[t]).abs().argmin())


def test_known_timesteps():
    assert trailing(3) == [999, 666, 332]
    assert trailing(4) == [999, 749, 499, 249]
    assert strided(4) == [999, 759, 499, 259]
    assert solver_grid(8) == [124, 249, 374, 499, 624, 749, 874, 999]
    assert solver_grid(40)[:3] == [24, 49, 74]
    assert solver_grid(200)[-2:] == [994, 999]


def test_which_timesteps_are_off_the_solver_grids():
    """The reason why training draws t from the samplers' timesteps too."""
    off_trailing = [n for n in STEPS if not set(trailing(n)) <= set(solver_grid(40))]
    off_strided = [n for n in STEPS if not set(strided(n)) <= set(solver_grid(40))]
    assert off_trailing == [3, 6, 7]
    assert off_strided == [3, 4, 6, 7, 8]
    assert all(set(strided(n)) <= set(solver_grid(200)) for n in STEPS)


@pytest.mark.parametrize(
    ("grid", "argument", "says"),
    [
        (solver_grid, 30, "use 40 or 200"),
        (solver_grid, 0, "use 40 or 200"),
        (trailing, 0, "from 1 to 1000, not 0"),
        (strided, 51, "from 1 to 50, not 51"),
    ],
)
def test_impossible_grids_name_the_remedy(grid, argument, says):
    with pytest.raises(ValueError, match=says):
        grid(argument)
