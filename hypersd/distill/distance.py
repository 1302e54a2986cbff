"""How far two latents are apart, as losses measure it: MSE, or pseudo-Huber √(d² + c²) − c of each element.

Pseudo-Huber as PCM and diffusers' LCM scripts use it.
"""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from hypersd.recipe import Strict, Weight


class Distance(Strict):
    weight: Weight = 1.0
    distance: Literal["mse", "huber"] = "huber"
    c: float = Field(1e-3, gt=0)
    """Pseudo-Huber's c, for each element (not the c = .00054 √d of a vector norm)."""

    def between(self, a: Float[Tensor, "b ..."], b: Float[Tensor, "b ..."]) -> Float[Tensor, ""]:
        """The mean over all elements; the weight is the loss's to apply."""
        squared = (a - b).square()
        if self.distance == "huber":
            squared = squared / ((squared + self.c**2).sqrt() + self.c)  # = √(d² + c²) − c, without the cancellation
        return squared.mean()
