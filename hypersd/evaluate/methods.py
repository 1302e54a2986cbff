"""Methods side by side: recipes of one trainer at an equal budget, measured alike (`hypersd bench methods`).

Each recipe's iterations are stretched or cut, all stages by one factor, until it costs what all cost (`budget.py`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypersd import bases
from hypersd.atomic import write_json
from hypersd.distill import log, resolve
from hypersd.distill.train import train
from hypersd.distill.watch import Watcher
from hypersd.evaluate import beside, evaluation, rows
from hypersd.evaluate.budget import Ledger, at_budget, cost, link
from hypersd.evaluate.passes import Counter
from hypersd.evaluate.report import plain
from hypersd.export import merged
from hypersd.recipe import Recipe, parse


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


def drawing(run: Run, steps: int) -> Path | None:
    """What draws in so many steps: the last LoRA or network, or the LoRA of the last stage with as many segments."""
    full = run.recipe.student == "full"
    if steps in run.recipe.sampler.steps:
        return run.folder / ("model" if full else "lora.safetensors")
    if full or run.recipe.lora.beneath:  # a stage's file is the new part alone
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
    files = drawn_by(run, steps)
    if run.file.is_file():
        _check_same(run.file, asked)
        _check_measured(run.file, sorted(n for counts in files.values() for n in counts), evaluate)
        return False
    if not files:
        raise ValueError(f"{run.recipe.name} makes nothing that draws in {' or '.join(map(str, steps))} steps")
    pools = run.runs / "pools"
    costs = cost(run.recipe, pools, watch)
    recipe = at_budget(run.recipe, costs, budget)
    link(pools, run.folder)
    again = (run.folder / log.NAME).is_file()
    with Counter().counting() as counter:
        ledger = Ledger.of(run.folder, counter, watch)
        trained = train(recipe, run.folder, resume=again, watch=ledger)
    if recipe.student == "full" and recipe.base != "toy":
        merged.write(trained, bases.folder(recipe.base), run.folder / "model")
    reports = [
        evaluation.run(recipe.base, file, None, steps=counts, progress=progress, **evaluate)
        for file, counts in files.items()
    ]
    spent = {"forward_equivalents": ledger.passes(recipe, costs), "train_minutes": ledger.minutes}
    for report in reports:
        beside.keep(run.out, report)
    drawn = [row for report in reports for row in report.rows if row.role == "distilled"]
    about = {**spent, **reports[0].about}
    written = {**asked, "iterations": [stage.iterations for stage in recipe.stages], "rows": drawn, "about": about}
    write_json(run.file, plain(written), indent=None)
    return True


def _check_same(file: Path, asked: dict[str, Any]) -> None:
    """Whether a result is that of this recipe and budget, in whatever words. Raises ValueError if not."""
    before = json.loads(file.read_text())
    theirs, mine = ({"budget": each["budget"], **resolve.in_full(parse(each["recipe"]))} for each in (before, asked))
    if differs := [key for key in mine if mine[key] != theirs.get(key)]:
        raise ValueError(
            f"{file} is of another run ({', '.join(differs)} differ{'s' * (len(differs) == 1)}); "
            "delete it, or give --out and --runs of their own"
        )


MEASURED_BY = {"pictures": "{} pictures", "seeds": "{} seeds", "guidance": "guidance {:g}"}
"""What decides a row's numbers beside the run, and how it is said."""


def _check_measured(file: Path, steps: Sequence[int], asked: dict[str, Any]) -> None:
    """Whether a result was measured in all these numbers of steps, and alike. Raises ValueError if not."""
    found = json.loads(file.read_text())
    there = {row["steps"] for row in found["rows"]}
    wrong = [f"{n} step{'s' * (n > 1)}" for n in steps if n not in there]
    wrong += [
        said.format(asked[key])
        for key, said in MEASURED_BY.items()
        if asked.get(key) is not None and asked[key] != found["about"][key]
    ]
    if wrong:
        raise ValueError(
            f"{file} was not measured in {wrong[0]}: delete it, what was trained stays; or give another --out"
        )


def drawn_by(run: Run, steps: Sequence[int]) -> dict[Path, list[int]]:
    """Which file draws in which of these numbers of steps."""
    found: dict[Path, list[int]] = {}
    for n in steps:
        if file := drawing(run, n):
            found.setdefault(file, []).append(n)
    return found


def read(folder: Path) -> list[dict[str, Any]]:
    """The runs in a folder of results."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json")) if path.name != beside.NAME]
