"""What is drawn, and from which seeds.

Set 0 is the reference: the guided teacher's pictures, which every other set is compared with. Sets 1, 2, 3
are drawn from other seeds, in every way of drawing alike, and give each number its spread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hypersd.diffusion.samplers import ONE_STEP
from hypersd.draw.pipeline import Made, Settings, settings_for
from hypersd.evaluate.captions import SPLITS
from hypersd.evaluate.solvers import SCHEDULERS

TEACHER_STEPS = 25
HARD_STEPS = 4
BASELINE_SAMPLERS = ("ddim", *SCHEDULERS)
STUDENT_SAMPLERS = ("ddim", "tcd")
REFERENCE, SELECTION = 0, 90
LOWER = 800
"""Where a single step is begun too by whoever was trained for no other place, which costs nothing: Hyper-SD §4.1."""


@dataclass(frozen=True)
class Plan:
    """One way of drawing."""

    settings: Settings
    lora: bool = False
    lower: bool = False
    """Whether its single step begins at LOWER, where it was not trained to."""

    @property
    def evaluations(self) -> int:
        """Passes of the network for one picture; guidance makes two of each."""
        return self.settings.steps * (1 if self.settings.guidance_scale == 1 else 2)

    @property
    def sampler(self) -> str:
        return f"{self.settings.sampler} from {LOWER}" if self.lower else self.settings.sampler

    @property
    def label(self) -> str:
        guided = f" w {self.settings.guidance_scale:g}" if self.settings.guidance_scale != 1 else ""
        steps = f"{self.settings.steps} step{'s' * (self.settings.steps > 1)}"
        how = "".join(f" {name} {value:g}" for name, value in self.settings.sampler_settings.items())
        return f"{'LoRA' if self.lora else 'base'}, {steps}, {self.settings.sampler}{how}{guided}"


def plan(steps: int, sampler: str, guidance: float = 1.0, lora: bool = False, **settings: float) -> Plan:
    return Plan(Settings(steps, sampler, settings, guidance), lora)


def teacher(guidance: float) -> Plan:
    """What every picture is compared with."""
    return plan(TEACHER_STEPS, "ddim", guidance)


def hard(guidance: float) -> Plan:
    """The same in so few steps that it must be plainly worse, or there is nothing to distil."""
    return plan(HARD_STEPS, "ddim", guidance)


def students(steps: Sequence[int], made: Made | None = None) -> list[Plan]:
    """As the LoRA's header says: its guidance, and its sampler with its settings among the others.

    Of a single step its sampler alone, since there they are all alike; and begun lower, if the header does not say
    where it begins.
    """
    header = made.sampler if made else {}
    own = header.get("name", "ddim")
    names, guidance = list(dict.fromkeys([*STUDENT_SAMPLERS, own])), own_guidance(made)
    ways = [(n, name) for n in steps for name in (names if n > 1 else [own])]
    found = [Plan(settings_for(made, n, name, guidance_scale=guidance), lora=True) for n, name in ways]
    if 1 in steps and ONE_STEP not in header:
        found.append(lowered(Plan(settings_for(made, 1, own, guidance_scale=guidance), lora=True)))
    return found


def lowered(one: Plan) -> Plan:
    """A plan of one step, begun at LOWER."""
    settings = {**one.settings.sampler_settings, ONE_STEP: LOWER}
    return replace(one, settings=replace(one.settings, sampler_settings=settings), lower=True)


def own_guidance(made: Made | None) -> float:
    """What a LoRA's header says it is drawn with."""
    return settings_for(made, 1).guidance_scale if made else 1.0


def at_steps(steps: int, guidance: float) -> list[Plan]:
    """The undistilled base at N steps: guidance 1, 2, g times three solvers; a single step begun lower too."""
    scales = list(dict.fromkeys((1.0, 2.0, float(guidance))))
    found = [plan(steps, sampler, scale) for scale in scales for sampler in BASELINE_SAMPLERS]
    return found + [lowered(plan(1, "ddim", scale)) for scale in scales] * (steps == 1)


def at_evaluations(evaluations: int, guidance: float) -> list[Plan]:
    """The undistilled base at N passes of the network: N steps without guidance, or N/2 with."""
    plans = [p for p in at_steps(evaluations, guidance) if p.settings.guidance_scale == 1]
    if evaluations % 2 == 0:
        plans += [p for p in at_steps(evaluations // 2, guidance) if p.settings.guidance_scale != 1]
    return plans


def seeds(split: str, number: int, count: int) -> list[int]:
    """One seed a picture; no two sets and no two splits share any."""
    start = (SPLITS.index(split) * 100 + number) * 1_000_000
    return list(range(start, start + count))
