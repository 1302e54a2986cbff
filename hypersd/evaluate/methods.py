"""Methods side by side: recipes of one trainer at an equal budget, measured alike (`hypersd bench methods`).

The budget is in UNet forward-equivalents: a sample's pass counts 1, and 3 where a gradient is taken through it, whoever
makes it, student, target, teacher, fake score, or discriminator (whose passes stop at the middle and count as whole
ones). Each recipe's iterations are stretched or cut, all stages by one factor, until it costs that.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hypersd import bases
from hypersd.atomic import write_json
from hypersd.distill import log
from hypersd.distill.train import train
from hypersd.distill.watch import Silent, Watcher
from hypersd.evaluate import evaluation, rows
from hypersd.evaluate.report import Report, short
from hypersd.export import merged
from hypersd.lora.roles import Roles
from hypersd.recipe import Recipe, parse

BACKWARD = 2
"""Passes that a gradient costs beside the one forward."""
BASE = "base.json"
ALIKE = ("split", "pictures", "seeds")
"""What rows must have been measured with to stand in one table."""
POOLS = ("pool-*.safetensors", "paths-*.safetensors")


@dataclass
class Counter:
    """Samples that went through the network that roles play on, more for a pass that a gradient is taken through."""

    evaluations: int = 0

    @contextmanager
    def counting(self) -> Iterator[Counter]:
        def seen(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            if roles := Roles.of.get(module):
                learns = torch.is_grad_enabled() and bool(roles.playing or inputs[0].requires_grad)
                self.evaluations += len(inputs[0]) * (1 + BACKWARD * learns)

        hook = nn.modules.module.register_module_forward_pre_hook(seen)
        try:
            yield self
        finally:
            hook.remove()


@dataclass(frozen=True)
class Run:
    """A method, a seed, and where its LoRAs and its numbers go."""

    recipe: Recipe
    out: Path
    runs: Path

    @property
    def name(self) -> str:
        return f"{self.recipe.name}-{self.recipe.seed}"

    @property
    def file(self) -> Path:
        return self.out / f"{self.name}.json"

    @property
    def folder(self) -> Path:
        return self.runs / self.name


@dataclass
class Spent(Silent):
    """Where the count stood after each update."""

    counter: Counter
    watch: Watcher
    at: list[int] = field(default_factory=list)

    def note(self, text: str) -> None:
        if not text.startswith("wrote"):  # drawing a pool takes minutes; the LoRAs here are thrown away
            self.watch.note(text)

    def update(self, iteration: int, loss: float, lr: float) -> None:
        self.at.append(self.counter.evaluations)


def cost(recipe: Recipe, pools: Path, watch: Watcher) -> list[int]:
    """Forward-equivalents of one update of each stage, counted on two updates of each."""
    stages = [{**stage.model_dump(mode="json"), "iterations": 2} for stage in recipe.stages]
    short = parse({**untested(recipe), "stages": stages, "sample_prompts": []})
    with tempfile.TemporaryDirectory() as folder, Counter().counting() as counter:
        link(pools, Path(folder))
        train(short, Path(folder), watch=(spent := Spent(counter, watch)))
        link(Path(folder), pools)
    return [second - first for first, second in zip(spent.at[::2], spent.at[1::2], strict=True)]


def at_budget(recipe: Recipe, costs: Sequence[int], budget: int) -> Recipe:
    """The recipe with iterations that cost the budget. Raises ValueError for one that is too small for any."""
    whole = sum(each * stage.iterations for each, stage in zip(costs, recipe.stages, strict=True))
    if budget < sum(costs):
        raise ValueError(f"a budget of {budget:,} is below one update of {recipe.name}'s stages, {sum(costs):,}")
    stages = [
        {**stage.model_dump(mode="json"), "iterations": max(1, round(stage.iterations * budget / whole))}
        for stage in recipe.stages
    ]
    return parse({**untested(recipe), "stages": stages})


def untested(recipe: Recipe) -> dict[str, Any]:
    """The recipe's values without samples that are held out, whose passes would count."""
    values = recipe.model_dump(mode="json")
    return {**values, "data": {key: value for key, value in values["data"].items() if key != "held"}}


def drawing(run: Run, steps: int) -> Path | None:
    """What draws in so many steps: the last LoRA or network, or the LoRA of the last stage with as many segments."""
    full = run.recipe.student == "full"
    if steps in run.recipe.sampler.steps:
        return run.folder / ("model" if full else "lora.safetensors")
    if full:
        return None
    stages = [index for index, stage in enumerate(run.recipe.stages) if stage.segments == steps]
    return run.folder / f"stage{stages[-1] + 1}-{steps}segments.safetensors" if stages else None


def bench(
    run: Run, budget: int, steps: Sequence[int], watch: Watcher, progress: rows.Progress, **evaluate: Any
) -> bool:
    """Trains and measures one run, and writes its file. False if that was there already.

    Raises ValueError for a recipe that draws in none of the steps, and where the file holds something else.
    """
    asked = {"budget": budget, "recipe": run.recipe.model_dump(mode="json")}
    if run.file.is_file():
        _check_same(run.file, asked)
        return False
    files = drawn_by(run, steps)
    if not files:
        raise ValueError(f"{run.recipe.name} makes nothing that draws in {' or '.join(map(str, steps))} steps")
    pools = run.runs / "pools"
    costs = cost(run.recipe, pools, watch)
    recipe = at_budget(run.recipe, costs, budget)
    link(pools, run.folder)
    started, again = time.perf_counter(), (run.folder / log.NAME).is_file()
    with Counter().counting() as counter:
        trained = train(recipe, run.folder, resume=again, watch=watch)
    if recipe.student == "full" and recipe.base != "toy":
        merged.write(trained, bases.folder(recipe.base), run.folder / "model")
    minutes = round((time.perf_counter() - started) / 60, 1)
    reports = [
        evaluation.run(recipe.base, file, None, steps=counts, progress=progress, **evaluate)
        for file, counts in files.items()
    ]
    planned = sum(each * stage.iterations for each, stage in zip(costs, recipe.stages, strict=True))
    spent = planned if again else counter.evaluations
    about = {"forward_equivalents": spent, "train_minutes": minutes, **reports[0].about}
    drawn, beside = _found(reports)
    keep_base(run.out, beside, about)
    written = {"rows": drawn, "recipe": recipe.model_dump(mode="json"), "about": about, "asked": asked}
    write_json(run.file, short(written), indent=None)
    return True


def _check_same(file: Path, asked: dict[str, Any]) -> None:
    """Whether a result is that of this recipe and budget, keys that have come since at what they are without being
    given. Raises ValueError if not.
    """
    before = json.loads(file.read_text()).get("asked", asked)
    theirs, mine = ({"budget": each["budget"], **parse(each["recipe"]).model_dump()} for each in (before, asked))
    if differs := [key for key in mine if mine[key] != theirs.get(key)]:
        raise ValueError(
            f"{file} is of another run ({', '.join(differs)} differ{'s' * (len(differs) == 1)}); "
            "delete it, or give --out and --runs of their own"
        )


def drawn_by(run: Run, steps: Sequence[int]) -> dict[Path, list[int]]:
    """Which file draws in which of these numbers of steps."""
    found: dict[Path, list[int]] = {}
    for n in steps:
        if file := drawing(run, n):
            found.setdefault(file, []).append(n)
    return found


def _found(reports: Sequence[Report]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of the method, and those of the base that it is seen beside."""
    drawn = [asdict(row) for report in reports for row in report.rows if row.role == "distilled"]
    beside = [asdict(row) for report in reports for row in report.rows if row.role != "distilled"]
    return drawn, beside


def keep_base(folder: Path, rows: Sequence[dict[str, Any]], about: dict[str, Any]) -> None:
    """The base's rows are the same beside every method: in a file of their own, once each.

    Raises ValueError where those that are there were measured otherwise.
    """
    file, measured = folder / BASE, {key: about[key] for key in ALIKE}
    before = json.loads(file.read_text()) if file.is_file() else {"about": measured}
    if before["about"] != measured:
        raise ValueError(f"{file} was measured otherwise, {before['about']}: delete it, or give --out of its own")
    found = {(row["steps"], row["sampler"], row["guidance"]): row for row in [*read_base(folder), *short(list(rows))]}
    write_json(file, {"about": measured, "rows": [found[place] for place in sorted(found)]}, indent=None)


def link(source: Path, target: Path) -> None:
    """Pools of latents and paths in both folders, drawn once for all runs."""
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


def read(folder: Path) -> list[dict[str, Any]]:
    """The runs in a folder of results."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json")) if path.name != BASE]


def read_base(folder: Path) -> list[dict[str, Any]]:
    """What the base draws beside them."""
    return json.loads((folder / BASE).read_text())["rows"] if (folder / BASE).is_file() else []
