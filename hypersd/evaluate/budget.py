"""What training costs, in UNet forward-equivalents (`passes.py`): what an update is expected to, and what each one did,
and a recipe with as many updates as a budget pays for.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from hypersd import atomic
from hypersd.diffusion.samplers import ONE_STEP
from hypersd.distill import resolve
from hypersd.distill.step import ROUTES
from hypersd.distill.train import train
from hypersd.distill.watch import Silent, Watcher
from hypersd.evaluate.passes import Counter
from hypersd.recipe import Recipe, Stage, parse

LEDGER = "passes.jsonl"
POOLS = ("pool-*.safetensors", "paths-*.safetensors")


@dataclass(frozen=True)
class Update:
    """What one update took."""

    stage: int
    iteration: int
    passes: int
    seconds: float


@dataclass
class Ledger:
    """A watcher that notes what each update took; in the run's folder, so that an interrupted run still knows.

    An update that is made again, because the run went back to its checkpoint, counts once.
    """

    counter: Counter
    watch: Watcher
    file: Path | None = None
    made: dict[tuple[int, int], Update] = field(default_factory=dict)
    _stage: int = 0
    _before: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def of(cls, folder: Path, counter: Counter, watch: Watcher) -> Ledger:
        """Goes on with the ledger of a folder, without a line that a killed run was writing."""
        file = folder / LEDGER
        lines = file.read_text().splitlines() if file.is_file() else []
        whole = [line for line in lines if line.endswith("}")]
        atomic.write_bytes(file, "".join(f"{line}\n" for line in whole).encode())
        updates = [Update(**json.loads(line)) for line in whole]
        return cls(counter, watch, file, {(each.stage, each.iteration): each for each in updates})

    def stage(self, index: int, stage: Stage, done: int) -> None:
        self.watch.stage(index, stage, done)
        self._stage, self._before = index, self._now()

    def update(self, iteration: int, loss: float, lr: float) -> None:
        passes, seconds = (now - before for now, before in zip(self._now(), self._before, strict=True))
        made = Update(self._stage, iteration - 1, round(passes), round(seconds, 3))
        self.made[made.stage, made.iteration] = made
        if self.file:
            atomic.append(self.file, json.dumps(vars(made)))
        self.watch.update(iteration, loss, lr)
        self._before = self._now()

    def note(self, text: str) -> None:
        self.watch.note(text)

    def _now(self) -> tuple[float, float]:
        return self.counter.evaluations, time.perf_counter()

    def passes(self, recipe: Recipe, prices: Sequence[float]) -> int:
        """Of a whole run. An update of a program that kept no ledger counts at its stage's price."""
        places = [(s, i) for s, stage in enumerate(recipe.stages) for i in range(stage.iterations)]
        return round(sum(self.made[at].passes if at in self.made else prices[at[0]] for at in places))

    @property
    def minutes(self) -> float:
        return round(sum(each.seconds for each in self.made.values()) / 60, 1)


@dataclass
class Notes(Silent):
    """Says what a run says, but not what it wrote: what is made to be counted is thrown away."""

    watch: Watcher

    def note(self, text: str) -> None:
        if not text.startswith("wrote"):  # drawing a pool takes minutes
            self.watch.note(text)


def cost(recipe: Recipe, pools: Path, watch: Watcher) -> list[float]:
    """Forward-equivalents that an update of each stage costs in the mean over what `draw.steps` lets it draw.

    A drawing's passes grow evenly with its steps: an update of the fewest and one of the most say what the mean costs.
    """
    least, most = (_drawn_in(recipe, pick) for pick in (min, max))
    low = _counted(least, pools, watch)
    high = low if most == least else _counted(most, pools, watch)
    ways = [_between(recipe.at(index).draw.steps) for index in range(len(low))]
    return [first + (last - first) * way for first, last, way in zip(low, high, ways, strict=True)]


def _between(steps: Sequence[int]) -> float:
    """Where the mean is on the way from least to most; halfway between both counts where these are the same."""
    low, high = min(steps), max(steps)
    return (fmean(steps) - low) / (high - low) if high > low else 0.5


def _drawn_in(recipe: Recipe, pick: Callable[[Sequence[int]], int]) -> Recipe:
    """One update of each stage, whole drawings, where it makes any, all in as many steps as are picked of its own.

    Where a single step begins is left out: a last stage that draws none would be refused, and it costs the same. Nor
    does it then say that it is drawn in one, which a LoRA beneath it would hold against it.
    """
    values, stages = unlooked(recipe), []
    for index, stage in enumerate(values["stages"]):
        made, override = recipe.at(index), stage["override"]
        if any(ROUTES in getattr(loss, "needs", ()) for loss in resolve.losses(made).values()):
            others = {key: value for key, value in override.items() if key != "draw.steps"}
            override = {**others, "draw.steps": [pick(made.draw.steps)]}  # last, on top of a whole `draw`
        stages.append({**stage, "iterations": 1, "override": override})
    sampler = {key: value for key, value in values["sampler"].items() if key != ONE_STEP}
    return parse({**values, "stages": stages, "sampler": {**sampler, "steps": [2]}})


def _counted(recipe: Recipe, pools: Path, watch: Watcher) -> list[int]:
    """Of a recipe with one update a stage."""
    with tempfile.TemporaryDirectory() as folder, Counter().counting() as counter, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the run itself says what is to be said
        link(pools, Path(folder))
        train(recipe, Path(folder), watch=(ledger := Ledger(counter, Notes(watch))))
        link(Path(folder), pools)
    return [each.passes for each in ledger.made.values()]


def at_budget(recipe: Recipe, costs: Sequence[float], budget: int) -> Recipe:
    """The recipe with iterations that cost the budget. Raises ValueError for one that is too small for any."""
    whole = sum(each * stage.iterations for each, stage in zip(costs, recipe.stages, strict=True))
    if budget < sum(costs):
        least = f"one update of {recipe.name}'s stages, {round(sum(costs)):,}"
        raise ValueError(f"a budget of {budget:,} is below {least}")
    stages = [
        {**stage.model_dump(mode="json"), "iterations": max(1, round(stage.iterations * budget / whole))}
        for stage in recipe.stages
    ]
    return parse({**unlooked(recipe), "stages": stages})


def unlooked(recipe: Recipe) -> dict[str, Any]:
    """The recipe's values without what is only looked at, whose passes would count: held-out samples and strips."""
    values = recipe.model_dump(mode="json")
    data = {key: value for key, value in values["data"].items() if key != "held"}
    return {**values, "data": data, "sample_prompts": []}


def link(source: Path, target: Path) -> None:
    """Pools of latents and paths in both folders, drawn once for all runs and in nobody's budget."""
    target.mkdir(parents=True, exist_ok=True)
    for pattern in POOLS:
        for file in source.glob(pattern):
            if not (target / file.name).exists():
                _same(file, target / file.name)


def _same(file: Path, other: Path) -> None:
    try:
        os.link(file, other)
    except FileExistsError:  # another process was faster
        pass
    except OSError:  # another disk
        shutil.copy(file, other)
