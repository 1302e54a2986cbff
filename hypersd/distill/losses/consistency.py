"""Consistency: two points of one trajectory must jump to the same place (Hyper-SD Eq. 12; Eq. 4, 5 for k = 1).

MSE, or the pseudo-Huber distance √(d² + c²) − c of each element, as PCM and diffusers' LCM scripts use it.
"""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from hypersd.distill.step import Batch, Nets
from hypersd.recipe import Strict


class Settings(Strict):
    weight: float = 1.0
    distance: Literal["mse", "huber"] = "huber"
    c: float = Field(1e-3, gt=0)
    """Pseudo-Huber's c, for each element (not the c = .00054 √d of a vector norm)."""


class Loss:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def student(self, batch: Batch, nets: Nets) -> Float[Tensor, ""]:
        step = nets.step(batch)
        squared = (step.x_end - step.target).square()
        if self.settings.distance == "huber":
            c = self.settings.c
            squared = squared / ((squared + c**2).sqrt() + c)  # = √(d² + c²) − c, without the cancellation
        return self.settings.weight * squared.mean()
