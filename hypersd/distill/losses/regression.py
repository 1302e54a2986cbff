"""Regression: a jump must land where the teacher's path goes (Luhman & Luhman 2021; the MSE of Hyper-SD §3.3).

Needs data that keeps whole paths (`distill/paths.py`). Its target is no network's, as consistency's is: nothing
has to travel from point to point, and what the student cannot follow it averages.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from hypersd.distill.distance import Distance as Settings
from hypersd.distill.step import PATHS, STUDENT, Batch, Nets


class Loss:
    misses = True
    needs = (PATHS,)

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def student(self, batch: Batch, nets: Nets) -> Float[Tensor, ""]:
        x_end = nets.jump(STUDENT, batch.x_t, batch.t, batch.end, batch)
        return batch.now(self.settings.weight) * self.settings.between(x_end, batch.on_path(batch.end))
