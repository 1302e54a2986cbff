"""Score distillation: the student's drawings must be as likely under the teacher as under themselves (DMD).

Hyper-SD Eq. 8 and §3.3; Yin et al. 2023 (DMD), 2024 (DMD2). A drawing x is noised to a random τ. The teacher, guided,
and the *fake score*, a second LoRA that has learnt the student's own drawings, each predict what it was; x moves
from the second towards the first, along (x0_fake − x0_real) / mean|x − x0_real|, the difference of the two scores
times σ²/α. Where the student's drawings are distributed as the teacher's, the two agree and nothing moves.

The drawings are whole rollouts over every N that the recipe names (backward simulation, DMD2 §4.5), so
`draw.visited_share` must be 1; without `simulation` they are single jumps from noised data, which no drawing passes.
The MSE that Hyper-SD adds for stability is the loss `consistency`, or on paths `rollout`, beside this one.
With `trajectory` not only their ends are held against the teacher but where each of their jumps lands, τ between
its two ends (TDM, Luo et al. 2025): the whole way must be as likely, and the fake score learns each part of it. Parts
of drawings in other numbers of steps share a τ and are other pictures: the fake score is told which, in τ itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from hypersd.bases import Base
from hypersd.diffusion.solver import renoise
from hypersd.distill.randomness import uniform
from hypersd.distill.rollout import rollout
from hypersd.distill.step import ROUTES, STUDENT, Batch, Latents, Nets, Timesteps, noise, noise_level
from hypersd.draw.pipeline import bind
from hypersd.recipe import Optimiser, Span, Strict, Weight

FAKE = "fake"
LEAST = 1e-6
"""Of the normaliser."""
SLOTS = 16
"""With `trajectory`, every so many timesteps lies a τ, and what is told of it says the number of steps less one."""


class Fake(Optimiser):
    """The fake score's, with what it has where a recipe does not say."""

    lr: float = Field(1e-5, gt=0)
    betas: tuple[float, float] = (0.0, 0.999)


class Settings(Strict):
    weight: Weight = 1.0
    guidance: float | None = Field(None, ge=0)
    """Of the teacher's score; None is `teacher.guidance`. The fake score is never guided."""
    one_step_guidance: float | None = Field(None, ge=0)
    """The same for drawings in a single step, where None is no exception: milder guidance leaves less to clean up."""
    span: Span = (0.02, 0.98)
    """τ is uniform in this part of the timesteps."""
    simulation: bool = True
    """Whether what is judged are the student's own rollouts from noise; else one jump to the end from each x_t."""
    trajectory: bool = False
    rank: int | None = Field(None, ge=1)
    """Of the fake score's LoRA; None is `lora.rank`."""
    updates: int = Field(1, ge=1)
    """Of the fake score for each of the student's (the two time-scales of DMD2)."""
    fake: Fake = Fake()

    @model_validator(mode="after")
    def _a_single_jump_is_no_trajectory(self) -> Settings:
        if self.trajectory and not self.simulation:
            raise ValueError("trajectory judges the jumps of a rollout: set simulation=true")
        return self


@dataclass(frozen=True)
class Made:
    """What the student made of each sample: x at `end`, by a jump from t that predicted x0."""

    x: Latents
    x0: Latents
    t: Timesteps
    end: Timesteps


class Loss:
    trains = FAKE

    def __init__(self, settings: Settings) -> None:
        self.settings, self.needs = settings, (ROUTES,) if settings.simulation else ()
        self.roles = {FAKE: settings.rank}
        self.optimiser, self.updates = settings.fake, settings.updates

    def build(self, base: Base, seed: int) -> None:
        """The fake score is a role."""

    def student(self, batch: Batch, nets: Nets) -> Float[Tensor, ""]:
        """½ |x − sg(x − gradient)|², whose gradient is `gradient`, as a mean over elements."""
        made = self.made(batch, nets)
        towards = (made.x - self.gradient(made, batch, nets)).detach()
        return 0.5 * batch.now(self.settings.weight) * (made.x - towards).square().mean()

    def made(self, batch: Batch, nets: Nets) -> Made:
        """The drawings; with `trajectory`, where a random jump of each landed."""
        last = torch.full_like(batch.end, -1)
        if not self.settings.trajectory:
            drawing = nets.once(rollout, batch).final if self.settings.simulation else nets.once(_at_once, batch)
            return Made(drawing, drawing, torch.full_like(last, batch.total - 1), last)
        drawn = nets.once(rollout, batch)
        (u,) = uniform(batch.rngs, 1)
        place = (u.to(batch.x0.device) * (batch.route >= 0).sum(1)).long()
        rows = [(jump.samples, place[jump.samples] == column, jump) for column, jump in enumerate(drawn.jumps)]
        order = torch.cat([samples[here] for samples, here, _ in rows]).argsort()
        pick = [torch.cat([getattr(jump, name)[here] for _, here, jump in rows])[order] for name in NAMES]
        return Made(*pick)

    @torch.no_grad()
    def gradient(self, made: Made, batch: Batch, nets: Nets) -> Latents:
        """(x0_fake − x0_real) / mean|x0 − x0_real|, the mean over each sample, in float32."""
        base = nets.base
        tau = self.level(batch, self.settings.span, made)
        x_t = renoise(base.schedule, made.x, made.end, tau, noise(batch))
        with nets.roles.play():
            real, _ = bind(base, batch.cond, base.null(batch.cond), self.scale(batch))(x_t, tau)
        fake, _ = nets.predict(FAKE, x_t, tau, batch.cond, self.told(tau, batch))
        away = (made.x0 - real).abs().flatten(1).mean(1).clamp(min=LEAST)
        gradient: Latents = (fake - real) / away.view(-1, 1, 1, 1)
        return gradient

    def scale(self, batch: Batch) -> Float[Tensor, " b"]:
        """The guidance of each sample's teacher; 0 means off."""
        usual, single = self.settings.guidance, self.settings.one_step_guidance
        scale = batch.guidance if usual is None else torch.full_like(batch.guidance, usual or 1.0)
        if single is None:
            return scale
        return torch.where((batch.route >= 0).sum(1) == 1, torch.full_like(scale, single or 1.0), scale)

    def level(self, batch: Batch, span: Span, made: Made) -> Timesteps:
        """τ of each sample, between the ends of its jump."""
        tau = noise_level(batch, span, made.end, made.t)
        if not self.settings.trajectory:
            return tau
        below = (tau - tau % SLOTS).clamp(max=(batch.total // SLOTS - 1) * SLOTS)  # with room for what is told
        return torch.where(below < made.end, below + SLOTS, below)

    def told(self, tau: Timesteps, batch: Batch) -> Timesteps | None:
        """What the fake score is told instead of τ."""
        return tau + (batch.route >= 0).sum(1) - 1 if self.settings.trajectory else None

    def opponent(self, batch: Batch, nets: Nets) -> Float[Tensor, ""]:
        """The fake score's own training: the noise that carried x from `end` up to τ, of which ε_τ is a part.

        x_τ = a x + b ε with a = α_τ/α_end, b² = 1 − a²; the score there is −ε/b, and −ε_τ/σ_τ as a network says it.
        """
        schedule = nets.base.schedule
        with torch.no_grad():
            made = self.made(batch, nets)
            tau, eps = self.level(batch, (0.0, 1.0), made), noise(batch)
            x_t = renoise(schedule, made.x, made.end, tau, eps)
            (alpha, sigma), (alpha_end, _) = schedule.at(tau, 4), schedule.at(made.end, 4)
            share = (1 - (alpha / alpha_end) ** 2).clamp(min=0).sqrt() / sigma
        _, predicted = nets.predict(FAKE, x_t, tau, batch.cond, self.told(tau, batch))
        return (share * predicted - eps).square().mean()


def _at_once(batch: Batch, nets: Nets) -> Latents:
    """Where the student's jump from x_t to the end lands."""
    return nets.jump(STUDENT, batch.x_t, batch.t, torch.full_like(batch.end, -1), batch)


NAMES = ("landed", "x0", "t", "end")
"""Of a jump, in the order of `Made`."""
