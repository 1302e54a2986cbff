"""Human feedback: judges must like what the student draws (Hyper-SD §3.2, Eq. 13).

    loss = Σ weight_d · mean ReLU(target_d − r_d(picture, prompt))

Each judge's hinge stops at its target: who has pleased it that far is left alone. The student draws from noise in the
recipe's samplers and steps; gradients flow through its last jump and the decoder only, as in ReFL (Xu et al. 2023).

A student learns to please a judge faster than to draw well. So judges that may only judge are refused here and can
`watch`: they are asked the same pictures, and training says when they fall while the others rise (`distill/guard.py`).
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from pydantic import Field, field_validator
from torch import Tensor
from torch.nn import functional as F

from hypersd import judges
from hypersd.distill.guard import Watched
from hypersd.distill.rollout import last_jump
from hypersd.distill.step import ROUTES, Batch, Nets
from hypersd.judges.against import Against
from hypersd.recipe import Strict, Weight


class Watch(Strict):
    weights: Path | None = None
    """The folder with the judge's files; None for one that comes with the package, or from the hub."""
    against: list[list[str]] = Field(default_factory=list)
    """Groups of words of which one may stand for another: the score is then how sure the judge is of the prompt's own
    (`judges/against.py`).
    """
    temperature: float = Field(1.0, gt=0)
    """What a judge's score is divided by there: its cosines' when it was trained."""

    @field_validator("against")
    @classmethod
    def _words(cls, groups: list[list[str]]) -> list[list[str]]:
        for group in groups:
            if len(set(group)) < max(2, len(group)) or not all(group):
                raise ValueError(f"{group} must be two words or more, no two alike")
        return groups


class Reward(Watch):
    weight: float = Field(1.0, ge=0)
    target: float
    """α_d of Eq. 13, in the judge's own units: what is good enough."""


class Settings(Strict):
    weight: Weight = 1.0
    judges: dict[str, Reward] = Field(min_length=1)
    watch: dict[str, Watch] = Field(default_factory=dict)
    window: int = Field(50, ge=2)
    """Iterations whose mean scores are compared as one."""
    stop: bool = False
    """Whether training ends where the judges that watch fall; else it says so."""


class Loss:
    needs = (ROUTES,)

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.watched = Watched(tuple(settings.judges), tuple(settings.watch), settings.window, settings.stop)
        for name in settings.judges:
            if not judges.about(name).may_reward:
                raise ValueError(f"the judge {name!r} only judges: take it out of losses.feedback.judges, or `watch`")
        if both := settings.judges.keys() & settings.watch.keys():
            raise ValueError(
                f"the judge {sorted(both)[0]!r} cannot look on while it is pleased: take it out of `watch`"
            )
        for name, asked in self.asked.items():
            judges.about(name).check(asked.weights)

    @property
    def asked(self) -> dict[str, Watch]:
        return {**self.settings.judges, **self.settings.watch}

    @cached_property
    def judges(self) -> dict[str, Any]:
        """Loaded when first asked, not while a recipe is only being checked."""
        return {name: self.load(name, asked) for name, asked in self.asked.items()}

    @staticmethod
    def load(name: str, asked: Watch) -> Any:
        judge = judges.load(name, asked.weights)
        return Against(judge, asked.against, asked.temperature) if asked.against else judge

    def student(self, batch: Batch, nets: Nets) -> Float[Tensor, ""]:
        pictures = nets.base.to_images(last_jump(batch, nets))
        found = {name: self.scores(name, pictures, batch) for name in self.judges}
        for name, scores in found.items():
            nets.tell(name, scores)
        rewards = self.settings.judges.items()
        misses = [reward.weight * F.relu(reward.target - found[name]).mean() for name, reward in rewards]
        return batch.now(self.settings.weight) * torch.stack(misses).sum()

    def scores(self, name: str, pictures: Float[Tensor, "b 3 h w"], batch: Batch) -> Float[Tensor, " b"]:
        """With gradient for a judge that is to be pleased."""
        with torch.set_grad_enabled(name in self.settings.judges):
            scores: Tensor = self.judges[name].to(pictures.device)(pictures, list(batch.prompts))
        return scores
