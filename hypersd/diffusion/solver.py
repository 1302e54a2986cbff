"""Moving along the probability-flow ODE: the jump, guidance, and the teacher's step (Hyper-SD Eq. 1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hypersd.diffusion.schedule import Schedule

Latent = Float[Tensor, "b ..."]
Predict = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(x_t, t) -> (x0, eps): a network with its conditioning and guidance already bound."""


def jump(schedule: Schedule, x0: Latent, eps: Latent, to: Int[Tensor, " b"]) -> Latent:
    """Ψ: x_to = α_to x0 + σ_to ε, the DDIM step to any timestep (Hyper-SD's solver in Eq. 1, 4, 5 and 12).

    (x0, ε) is a prediction at some x_t; jumping to t itself gives x_t back exactly, so that no
    boundary scalings (c_skip, c_out) are needed.
    """
    return schedule.add_noise(x0, eps, to)


def guide(cond: Latent, null: Latent, scale: Float[Tensor, " b"] | float) -> Latent:
    """Classifier-free guidance, ordinary convention: null + w (cond − null); w = 1 is `cond`.

    Written as lerp because the formula itself misses `cond` by a rounding at w = 1.
    """
    if isinstance(scale, Tensor):
        scale = scale.to(cond).view(-1, *[1] * (cond.ndim - 1))
    return torch.lerp(null, cond, scale)


def renoise(schedule: Schedule, x_t: Latent, t: Int[Tensor, " b"], to: Int[Tensor, " b"], eps: Latent) -> Latent:
    """From timestep t up to a noisier one: x_to ~ N(a x_t, (1 − a²) I) with a = α_to / α_t."""
    alpha_t, _ = schedule.at(t, x_t.ndim)
    alpha_to, _ = schedule.at(to, x_t.ndim)
    ratio = alpha_to / alpha_t
    return ratio * x_t + (1 - ratio**2).clamp(min=0).sqrt() * eps


def ode_step(schedule: Schedule, predict: Predict, x_t: Latent, t: Tensor, s: Tensor) -> Latent:
    """One DDIM step t → s of `predict`. With a guided teacher this is Eq. 1, x̂_s = Ψ(x_t, f_tea, s)."""
    x0, eps = predict(x_t, t)
    return jump(schedule, x0, eps, s)


@torch.no_grad()
def ode_walk(schedule: Schedule, predict: Predict, x: Latent, timesteps: Sequence[int]) -> Latent:
    """Follow the ODE through `timesteps`, from the first (where x lives) to the last (where the result lives)."""
    for t, s in pairwise(timesteps):
        x = ode_step(schedule, predict, x, full(t, x), full(s, x))
    return x


def full(t: int, x: Latent) -> Int[Tensor, " b"]:
    """The timestep t for each sample of the batch x."""
    return torch.full((len(x),), t, device=x.device, dtype=torch.long)
