"""One step of trajectory segmented consistency distillation (Hyper-SD §3.1, Eq. 12, Algorithm 1).

t, s, end     two grid points and an end, all in one segment
x_t           α_t x0 + σ_t ε
x_s           one guided teacher step t → s                         (Eq. 1)
x_end         the student's jump  t → end
target        the target network's jump  s → end, without gradient
loss          distance(x_end, target)                               (Eq. 12, distill/losses)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hypersd.bases import Base, Cond
from hypersd.diffusion.grids import step_code
from hypersd.diffusion.segments import Segments, next_on
from hypersd.diffusion.solver import jump, ode_step
from hypersd.distill.randomness import Generators, normal, uniform
from hypersd.distill.truth import Truth
from hypersd.draw.pipeline import bind, told
from hypersd.lora.roles import Roles
from hypersd.recipe import Draw, Span, Weight

Latents = Float[Tensor, "b c h w"]
Timesteps = Int[Tensor, " b"]
Computed = TypeVar("Computed")

STUDENT, TARGET, PREVIOUS, AVERAGE, BENEATH = "student", "target", "previous", "average", "beneath"
ROUTES, PATHS = "routes", "paths"
"""What a loss may need of a batch: the timesteps that each sample's sampler visits; the teacher's whole paths."""


@dataclass(frozen=True)
class Batch:
    """Samples with everything random about them already drawn."""

    x0: Latents
    eps: Latents
    x_t: Latents
    t: Timesteps
    s: Timesteps
    end: Timesteps
    cond: Cond
    guidance: Float[Tensor, " b"]
    route: Int[Tensor, "b r"]
    """The timesteps that the sampler of t visits, filled up with −1; NOWHERE where t was drawn for none."""
    path: Float[Tensor, "b p c h w"] | None = None
    """The teacher's path through x_t, at −1 and at each point of the solver grid, where the data keeps it."""
    total: int = 1000
    rngs: Generators = ()
    """Each sample's generator, for what a loss draws."""
    prompts: tuple[str, ...] = ()
    truth: Truth | None = None
    """What a perceptual loss compares drawings with, where the data keeps it."""
    shared: torch.Generator = field(default_factory=torch.Generator)
    """One generator for all samples, in every process: for what a loss draws for itself."""
    code: int = 0
    """Of a step, `diffusion.grids.step_code`."""
    progress: float = 0.0
    """The share of the stage's iterations that are done."""
    eta: Float[Tensor, " b"] | None = None
    """TCD's η of each sample's drawing; None is 0."""
    again: Float[Tensor, "b r c h w"] | None = None
    """The noise of each timestep of the route, for a drawing with η: whoever draws it again draws the same."""

    def __len__(self) -> int:
        return len(self.t)

    def now(self, weight: Weight) -> float:
        """A loss's weight at this point of the stage."""
        first, last = weight if isinstance(weight, tuple) else (weight, weight)
        return first + (last - first) * self.progress

    @property
    def codes(self) -> Timesteps:
        """What is taken from the timesteps of each sample before a few-step network is told them."""
        if not self.code:
            return torch.zeros_like(self.t)
        steps = (self.route >= 0).sum(1).clamp(min=1)  # 1, and so none, for a t that was drawn for no sampler
        return torch.tensor([step_code(n, self.code) for n in steps.tolist()], device=self.route.device)

    @property
    def whole_path(self) -> Float[Tensor, "b p c h w"]:
        """Raises ValueError where the data keeps none."""
        if self.path is None:
            raise ValueError("there are no paths to follow: set data={kind: paths}")
        return self.path

    def on_path(self, t: Timesteps) -> Latents:
        """Where the teacher's path is at t."""
        return pick_point(self.whole_path, t, self.total)


@dataclass(frozen=True)
class Step:
    """What one TSCD step of a batch computes; only `x_end` carries gradient."""

    x_s: Latents
    x_end: Latents
    target: Latents


@dataclass
class Nets:
    """The networks of a step: one backbone in its roles."""

    base: Base
    roles: Roles
    target: str = STUDENT
    """The role that makes the target: a moving average, or the student itself without gradient."""
    previous: str | None = None
    """The role whose ODE is followed instead of the guided base's: the student of the previous stage."""
    substeps: int = 1
    """How many solver steps the teacher takes from t to s."""
    beneath: tuple[str, ...] = ()
    """Finished LoRAs that every few-step role plays on top of."""
    scores: dict[str, Any] = field(default_factory=dict)
    """What judges gave this iteration's drawings: sums over its samples."""
    _latest: dict[Any, tuple[Batch, Any]] = field(default_factory=dict, repr=False)

    def once(self, compute: Callable[[Batch, Nets], Computed], batch: Batch) -> Computed:
        """`compute(batch, self)`, computed when first asked for: losses that need the same of a batch share it."""
        if compute not in self._latest or self._latest[compute][0] is not batch:
            self._latest[compute] = batch, compute(batch, self)
        return self._latest[compute][1]

    def predict(
        self, role: str, x_t: Latents, t: Timesteps, cond: Cond, told: Timesteps | None = None
    ) -> tuple[Latents, Latents]:
        """f_role's (x0, ε)."""
        with self.roles.play(*self.playing(role)):
            return self.base.predict(x_t, t, cond, told)

    def tell(self, judge: str, scores: Float[Tensor, " b"]) -> None:
        """Adds what a judge gave these samples to this iteration's scores."""
        self.scores[judge] = self.scores.get(judge, 0.0) + scores.detach().sum()

    def playing(self, role: str) -> tuple[str, ...]:
        """What is on stage for a role: a few-step one stands on what was finished before."""
        return (*self.beneath, role) if role in (STUDENT, TARGET, PREVIOUS, AVERAGE) else (role,)

    def jump(self, role: str, x_t: Latents, t: Timesteps, end: Timesteps, batch: Batch) -> Latents:
        """f_role's jump t → end, f_role a few-step network."""
        x0, eps = self.predict(role, x_t, t, batch.cond, told(t, batch.codes))
        return jump(self.base.schedule, x0, eps, end)

    @torch.no_grad()
    def teacher_step(self, batch: Batch) -> Latents:
        """x̂_s of Eq. 1: DDIM from t to s of the guided base, or of the previous stage (guidance is in it)."""
        if batch.path is not None:
            return batch.on_path(batch.s)
        with self.roles.play(*self.playing(self.previous) if self.previous else []):
            guidance = 1.0 if self.previous else batch.guidance
            code = batch.codes if self.previous else 0
            predict = bind(self.base, batch.cond, self.base.null(batch.cond), guidance, code)
            x, t = batch.x_t, batch.t
            for taken in range(1, self.substeps + 1):
                to = batch.t - (batch.t - batch.s) * taken // self.substeps
                x, t = ode_step(self.base.schedule, predict, x, t, to), to
            return x


def tscd(batch: Batch, nets: Nets) -> Step:
    """Eq. 12. Where s is already the end (a segment's first point) the target is the teacher's step itself."""
    with torch.no_grad():
        target = x_s = nets.teacher_step(batch)
        arrived = batch.s == batch.end
        if not arrived.all():  # with a segment a step there is nothing left to jump over
            jumped = nets.jump(nets.target, x_s, batch.s.clamp(min=0), batch.end, batch)
            target = torch.where(arrived.view(-1, *[1] * (x_s.ndim - 1)), x_s, jumped)
    x_end = nets.jump(STUDENT, batch.x_t, batch.t, batch.end, batch)
    return Step(x_s, x_end, target)


def off_grid(points: int, t: int, total: int) -> str:
    """What is wrong with a timestep that paths of so many points do not pass; empty if nothing is."""
    if (t + 1) * points % total == 0:
        return ""
    return (
        f"paths of {points} points do not pass timestep {t}: set draw.end to start, or to visited with "
        "draw.visited_share=1, draw.samplers to [ddim] and draw.steps to those that divide draw.points"
    )


def pick_point(path: Float[Tensor, "b p c h w"], t: Timesteps, total: int) -> Latents:
    """Each path at its own t, a point of its grid or −1. Raises ValueError for a t between two points."""
    points = path.shape[1] - 1
    index = (t + 1) * points
    if (off := index % total > 0).any():
        raise ValueError(off_grid(points, int(t[off][0]), total))
    return path[torch.arange(len(path), device=path.device), index // total]


def _ending(path: Float[Tensor, "b p c h w"], end: Latents, where: Bool[Tensor, " b"]) -> Float[Tensor, "b p c h w"]:
    """The paths, those of some samples with another end."""
    ends = torch.where(where.to(path.device).view(-1, 1, 1, 1), end, path[:, 0])
    return torch.cat([ends.unsqueeze(1), path[:, 1:]], 1)


def draw_batch(
    base: Base,
    x0: Latents | Float[Tensor, "b p c h w"],
    cond: Cond,
    rngs: Generators,
    segments: Segments,
    draw: Draw,
    visited: list[list[int]],
    guidance: tuple[float, float],
    common: torch.Generator | None = None,
    one_step: Latents | None = None,
) -> Batch:
    """Timesteps, noise and guidance for clean latents, or for paths, from one generator a sample.

    `draw.together` needs `common`, one generator that is the same in every process and micro-batch. Where a route is
    a single step, `one_step` is the path's end.
    """
    path, total = x0 if x0.ndim == 5 else None, base.schedule.total
    u_t, u_list, u_end, u_noise, u_guidance = uniform(rngs, 5)
    if draw.together:
        assert common is not None
        (u_common,) = uniform([common], 1)
        u_list = torch.where(u_list < draw.visited_share, u_common * draw.visited_share, u_list)
    t, route = segments.draw_t(u_t, u_list, visited, draw.visited_share)
    if path is not None and one_step is not None:
        path = _ending(path, one_step, (route >= 0).sum(1) == 1)
    x0 = x0 if path is None else path[:, 0]
    end = segments.end(t, u_end, draw.end, draw.start_share, next_on(route, t))
    eps = normal(rngs, x0.shape[1:]).to(base.device)
    low, high = guidance
    begins_lower = (t == route[:, 0]) & (t < total - 1)  # a sampler's first timestep, where it has pure noise too
    pure = begins_lower | (t == total - 1) & (u_noise < draw.pure_noise)
    s, t, end, route, pure = (tensor.to(base.device) for tensor in (segments.previous(t), t, end, route, pure))
    if path is None:
        x_t = torch.where(pure.view(-1, 1, 1, 1), eps, base.schedule.add_noise(x0, eps, t))
    else:
        eps, x_t = path[:, -1], pick_point(path, torch.where(pure, total - 1, t), total)
    scale = (low + (high - low) * u_guidance).float().to(base.device)
    batch = Batch(x0, eps, x_t, t, s, end, cond, scale, route, path, total, rngs)
    if not draw.eta:
        return batch
    eta = draw.eta * (2 * uniform(rngs, 1)[0] - 1).clamp(min=0).float().to(base.device)
    return replace(batch, eta=eta, again=normal(rngs, (route.shape[1], *x0.shape[1:])).to(x0))


def noise_level(batch: Batch, span: Span, end: Timesteps, t: Timesteps | None = None) -> Timesteps:
    """A timestep for each sample, uniform in what this part of all shares with [end, t], or at the nearer end of it."""
    (u,) = uniform(batch.rngs, 1)
    least, most = end.to(u).clamp(min=0), torch.full_like(u, batch.total) if t is None else t.to(u) + 1
    low, high = (torch.clamp(torch.full_like(u, share * batch.total), least, most) for share in span)
    return torch.minimum((low + (high - low) * u).long(), most.long() - 1).to(end)


def noise(batch: Batch) -> Latents:
    """Standard normal, of each sample's own generator."""
    return normal(batch.rngs, batch.x0.shape[1:]).to(batch.x0)
