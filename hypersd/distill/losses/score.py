"""Score distillation: the student's drawings must be as likely under the teacher as under themselves (DMD).

Hyper-SD Eq. 8 and §3.3; Yin et al. 2023 (DMD), 2024 (DMD2). A drawing x is noised to a random τ. The teacher, guided,
and the *fake score*, a second LoRA that has learnt the student's own drawings, each predict what it was; x moves
from the second towards the first, along (x0_fake − x0_real) / mean|x − x0_real|, the difference of the two scores
times σ²/α. Where the student's drawings are distributed as the teacher's, the two agree and nothing moves.

The drawings are whole rollouts over every N that the recipe names (backward simulation), so `draw.visited_share`
must be 1. The MSE that Hyper-SD adds for stability is the loss `rollout` beside this one.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from hypersd.bases import Base
from hypersd.distill.rollout import rollout
from hypersd.distill.step import ROUTES, Batch, Latents, Nets, noise
from hypersd.draw.pipeline import bind
from hypersd.recipe import Optimiser, Span, Strict

FAKE = "fake"
LEAST = 1e-6
"""Of the normaliser."""


class Settings(Strict):
    weight: float = Field(1.0, ge=0)
    guidance: float | None = Field(None, ge=0)
    """Of the teacher's score; None is `teacher.guidance`. The fake score is never guided."""
    span: Span = (0.02, 0.98)
    """τ is uniform in this part of the timesteps."""
    rank: int | None = Field(None, ge=1)
    """Of the fake score's LoRA; None is `lora.rank`."""
    updates: int = Field(1, ge=1)
    """Of the fake score for each of the student's (the two time-scales of DMD2)."""
    fake: Optimiser = Optimiser(lr=1e-5, betas=(0.0, 0.999))


class Loss:
    needs = (ROUTES,)

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.roles = {FAKE: settings.rank}
        self.optimiser, self.updates = settings.fake, settings.updates

    def build(self, base: Base, seed: int) -> None:
        """The fake score is a role."""

    def student(self, batch: Batch, nets: Nets) -> Float[Tensor, ""]:
        """½ |x − sg(x − gradient)|², whose gradient is `gradient`, as a mean over elements."""
        x = nets.once(rollout, batch).final
        towards = (x - self.gradient(x, batch, nets)).detach()
        return 0.5 * self.settings.weight * (x - towards).square().mean()

    @torch.no_grad()
    def gradient(self, x: Latents, batch: Batch, nets: Nets) -> Latents:
        """(x0_fake − x0_real) / mean|x − x0_real|, the mean over each sample, in float32."""
        base, given = nets.base, self.settings.guidance
        t, eps = noise(batch, self.settings.span)
        x_t = base.schedule.add_noise(x, eps, t)
        scale = batch.guidance if given is None else torch.full_like(batch.guidance, given or 1.0)
        with nets.roles.play():
            real, _ = bind(base, batch.cond, base.null(batch.cond), scale)(x_t, t)
        with nets.roles.play(FAKE):
            fake, _ = base.predict(x_t, t, batch.cond)
        away = (x - real).abs().flatten(1).mean(1).clamp(min=LEAST)
        return torch.nan_to_num((fake - real) / away.view(-1, 1, 1, 1))

    def opponent(self, batch: Batch, nets: Nets) -> Float[Tensor, ""]:
        """The fake score's own training: the ε of a noised drawing."""
        with torch.no_grad():
            x = nets.once(rollout, batch).final.detach()
            t, eps = noise(batch, (0.0, 1.0))
            x_t = nets.base.schedule.add_noise(x, eps, t)
        with nets.roles.play(FAKE):
            _, predicted = nets.base.predict(x_t, t, batch.cond)
        return (predicted - eps).square().mean()
