"""What a student that sees only t must learn on Gaussian data, in closed form (docs/paper_index.md).

Data N(0, std²), so the ideal ε is linear: ε = c(t) x, and so are the teacher's step and the student's
jump. Training minimises, at each grid point t, the mean over ends of (jump(t → end) − target)², the
target being the student's own jump from s, gradient stopped. Each jump is affine in c(t), so the optimum
is a least-squares fit, and it can be solved from the segment's first point upwards, since the target of
a point only needs the point below it.

Nothing here uses the package: numpy in float64, from Stable Diffusion's β alone.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

End = Literal["uniform", "start"]

ALPHAS_CUMPROD = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
ALPHA, SIGMA = np.sqrt(ALPHAS_CUMPROD), np.sqrt(1 - ALPHAS_CUMPROD)


def gain(std: float, k: int, end: End, points: int = 40) -> float:
    """Standard deviation of the trained student's output in k jumps from x_999 of unit variance."""
    student = coefficients(std, k, end, points)
    stops = range(999, -1, -1000 // k)
    return float(np.prod([factor(t, t - 1000 // k, student[t]) for t in stops]))


def coefficients(std: float, k: int, end: End, points: int = 40) -> dict[int, float]:
    """c(t) of the student that training converges to, for every point of the solver grid: ε = c(t) x."""
    stride, length = 1000 // points, 1000 // k
    student: dict[int, float] = {}
    for t in range(stride - 1, 1000, stride):
        s, start = t - stride, t // length * length - 1
        ends = np.arange(start, s + 1) if end == "uniform" else np.array([start])
        arrived = factor(t, s, teacher(std, t))  # x_s for x_t = 1
        # At the segment's first point s is the only end, and the target is x_s itself.
        target = arrived * (factor(s, ends, student[s]) if s > start else np.ones(1))
        offset, slope = factor(t, ends, 0.0), factor(t, ends, 1.0) - factor(t, ends, 0.0)
        student[t] = float(slope @ (target - offset) / (slope @ slope))
    return student


def teacher(std: float, t: int) -> float:
    """c(t) of the ideal ε."""
    return at(SIGMA, t) / ((at(ALPHA, t) * std) ** 2 + at(SIGMA, t) ** 2)


def teacher_gain(std: float, points: int = 40) -> float:
    """As `gain`, for the teacher's own DDIM steps over the whole grid."""
    stride = 1000 // points
    return float(np.prod([factor(t, t - stride, teacher(std, t)) for t in range(999, -1, -stride)]))


def flow_gain(std: float) -> float:
    """As `gain`, for the exact solution of the ODE."""
    start, end = (np.hypot(at(ALPHA, t) * std, at(SIGMA, t)) for t in (999, -1))
    return float(end / start)


def factor(t, end, c):
    """The jump t → end of ε = c x, as a factor of x: α_end (1 − σ_t c) / α_t + σ_end c."""
    return at(ALPHA, end) * (1 - at(SIGMA, t) * c) / at(ALPHA, t) + at(SIGMA, end) * c


def at(level: np.ndarray, t):
    return level[np.maximum(t, 0)]
