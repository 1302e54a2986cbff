"""Which timesteps a solver or a sampler visits, as plain integers."""

from __future__ import annotations

import math
from fractions import Fraction

MAX_STEPS = 8
MOST_MADE_FOR = 12  # steps that a LoRA may say it is made for: Hyper-SD's CFG LoRAs are for up to 12
TCD_STRIDE_POINTS = 50  # diffusers' `original_inference_steps` for TCD and LCM


def solver_grid(points: int, total: int = 1000) -> list[int]:
    """t(n) = (n+1)·T/N − 1 for n = 0 .. N−1, ascending: the teacher's solver grid."""
    if points < 1 or total % points:
        raise ValueError(f"a solver grid of {points} points does not divide {total} timesteps; use 40 or 200")
    stride = total // points
    return [(n + 1) * stride - 1 for n in range(points)]


def trailing(steps: int, total: int = 1000) -> list[int]:
    """`steps` timesteps from T−1 downwards, evenly spaced: diffusers' `timestep_spacing="trailing"`.

    Rounds half to even on exact fractions, as numpy rounds in diffusers: 999 666 332 for 3 steps.
    """
    check_steps(steps, total)
    return [round(Fraction(total * (steps - i), steps)) - 1 for i in range(steps)]


def strided(steps: int, total: int = 1000, points: int = TCD_STRIDE_POINTS) -> list[int]:
    """The timesteps of diffusers' TCD and LCM schedulers: `steps` of a grid of 50, 999 759 499 259 for 4."""
    check_steps(steps, points)
    grid = solver_grid(points, total)[::-1]
    return [grid[points * i // steps] for i in range(steps)]


def begun(grid: list[int], one_step: float | None, total: int = 1000) -> list[int]:
    """A sampler's grid; of a single step, whose x0 has to come right at once, `one_step` in place of T − 1.

    It begins in pure noise either way. What is wrong in ε reaches x0 times σ/α: of SD 14.6 at 999, 5.1 at 800, where
    Hyper-SD's one-step network begins (§3.3, §4.1). Raises ValueError for a timestep that there is not.
    """
    if one_step is None or len(grid) > 1:
        return grid
    if one_step >= total:
        raise ValueError(f"one_step must be a timestep below {total}, not {one_step}")
    return [int(one_step)]


def check_one_step(t: object) -> None:
    """Raises ValueError for what is no timestep; a header may hold anything."""
    known = isinstance(t, (int, float)) and math.isfinite(t) and t >= 0 and t == int(t)
    if t is not None and not known:
        raise ValueError(f"one_step must be a timestep, a whole number of 0 or more, not {t!r}")


def step_code(steps: int, code: int) -> int:
    """What is taken from a timestep before the network is told it, so that it knows of how many steps it is one.

    A network that sees t alone must use one chord from t = 999 for every number of steps. `code` timesteps less for
    each further step tell them apart, and the jump's arithmetic keeps the true t. 0 is off.
    """
    return code * (steps - 1)


def check_steps(steps: int, most: int) -> None:
    if not 1 <= steps <= most:
        raise ValueError(f"steps must be from 1 to {most}, not {steps}")
