"""The contact sheet of a comparison: a row for each method, the same prompts and seeds in each number of steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from PIL import Image

from hypersd.draw.compare import Drawn, Way, draw_ways
from hypersd.draw.pipeline import Settings, made_by, settings_for
from hypersd.draw.sheet import Column, Sheet
from hypersd.evaluate.methods import Run, drawn_by
from hypersd.evaluate.protocol import TEACHER_STEPS

TEACHER, BASE = f"teacher, {TEACHER_STEPS} steps", "the same, fewer steps"
Progress = Callable[[Way], None]


def ways(runs: Sequence[Run], steps: Sequence[int], guidance: float) -> list[Way]:
    """The teacher, the undistilled base, then each method in those numbers of steps that it was trained for."""
    found = [Way(TEACHER, Settings(steps=TEACHER_STEPS, guidance_scale=guidance))]
    found += [Way(BASE, Settings(steps=n, guidance_scale=guidance)) for n in steps]
    for run in runs:
        for file, counts in drawn_by(run, steps).items():
            if not file.exists():
                raise ValueError(f"nothing at {file}: `hypersd bench methods` trains it")
            found += [Way(run.recipe.name, settings_for(made_by(file), n), file) for n in counts]
    return found


def gallery(
    runs: Sequence[Run],
    prompts: Sequence[str],
    steps: Sequence[int],
    guidance: float,
    progress: Progress = lambda way: None,
) -> Sheet:
    """Draws it. Raises ValueError for a run that was not trained, or runs on different bases."""
    bases = {run.recipe.base for run in runs}
    if len(bases) != 1:
        raise ValueError(f"a sheet has one base, and these recipes have {len(bases)}: {', '.join(sorted(bases))}")
    drawn = draw_ways(bases.pop(), ways(runs, steps, guidance), prompts, range(len(prompts)), progress=progress)
    return arranged(drawn, prompts, steps)


def arranged(drawn: Sequence[Drawn], prompts: Sequence[str], steps: Sequence[int]) -> Sheet:
    """Ways as rows, prompts as columns, once for each number of steps; the teacher's are the same in all."""
    by_place = {(item.way.group, item.way.settings.steps): item.pictures() for item in drawn}
    rows = list(dict.fromkeys(item.way.group for item in drawn))
    blank = Image.new("RGB", next(iter(by_place.values()))[0].size, "white")
    empty = [blank] * len(prompts)

    def at(row: str, n: int) -> list[Image.Image]:
        return by_place.get((row, TEACHER_STEPS if row == TEACHER else n), empty)

    columns = [Column(f"{n} step{'s' * (n > 1)}", str(i + 1)) for n in steps for i in range(len(prompts))]
    cells = [[picture for n in steps for picture in at(row, n)] for row in rows]
    return Sheet(rows, columns, cells, "   ".join(f"{i + 1}: {prompt}" for i, prompt in enumerate(prompts)))
