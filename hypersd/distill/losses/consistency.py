"""Consistency: two points of one trajectory must jump to the same place (Hyper-SD Eq. 12; Eq. 4, 5 for k = 1)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from hypersd.distill.distance import Distance as Settings
from hypersd.distill.step import Batch, Nets, tscd


class Loss:
    misses = True

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def student(self, batch: Batch, nets: Nets) -> Float[Tensor, ""]:
        step = nets.once(tscd, batch)
        return batch.now(self.settings.weight) * self.settings.between(step.x_end, step.target)
