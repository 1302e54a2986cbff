"""Instance-perceptual loss: a segmenter must find in what the student draws what the real picture shows
(Hyper-SD §3.2, Eq. 14).

    x_{t_a} = α x0 + σ ε ,   loss = weight · L_instance(m_I(x'_0), truth of x0)

A real latent is noised to t_a, one of the timesteps of its sample's route. The student goes on from there; gradients
flow through its last jump and the decoder only, as in `feedback`.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from hypersd import judges
from hypersd.distill.rollout import last_jump, on_route
from hypersd.distill.step import ROUTES, Batch, Nets
from hypersd.recipe import Strict, Weight


class Settings(Strict):
    weight: Weight = 1.0
    name: str
    """Of the segmenter: `emoji-mask`, `mask2former`, or a dotted path."""
    weights: Path | None = None
    """The folder with its files; None for one that comes with the package, or from the hub."""


class Loss:
    def __init__(self, settings: Settings) -> None:
        about = judges.about(settings.name, judges.PERCEPTUALS)
        if not about.may_reward:
            raise ValueError(f"{settings.name!r} only judges: set losses.perceptual.name to one that may be pleased")
        if about.truth == judges.PICTURES:
            raise ValueError(f"{settings.name!r} compares pictures, which losses.likeness does: name it there")
        about.check(settings.weights)
        self.settings, self.needs = settings, (ROUTES, about.truth)

    @cached_property
    def segmenter(self) -> Any:
        """Loaded when first asked, not while a recipe is only being checked."""
        return judges.load_perceptual(self.settings.name, self.settings.weights)

    def student(self, batch: Batch, nets: Nets) -> Float[Tensor, ""]:
        pictures = nets.base.to_images(last_jump(batch, nets, start=on_route(batch)))
        lost: Tensor = self.segmenter.to(pictures.device)(pictures, batch.truth)
        return batch.now(self.settings.weight) * lost
