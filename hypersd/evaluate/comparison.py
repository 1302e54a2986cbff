"""The page of a comparison: one row for each method, number of steps and sampler, over its seeds.

    python -m hypersd.evaluate.comparison [docs/results/methods] [docs/results.md]

writes the page between its markers anew from the JSON files in the folder.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hypersd.evaluate import beside, claims, report
from hypersd.evaluate.methods import read
from hypersd.evaluate.report import Row, Stat, cell, grid, measured, put

BEGIN, END = "<!-- methods: begin -->", "<!-- methods: end -->"
COMMAND = "python -m hypersd.evaluate.comparison"
SHOWN = ("alignment", "recall_at_1", "quality", "fd_teacher", "fd_real", "path", "recall", "diversity", "saturation")
GLANCE = ("alignment", "quality", "fd_teacher")
AT_A_GLANCE = "Each with its own sampler: alignment, quality, FD to teacher."


def merged(runs: Sequence[dict[str, Any]]) -> dict[tuple[str, int, str, float], Row]:
    """Rows of the same method, steps, sampler and guidance, the values of all seeds together."""
    found: dict[tuple[str, int, str, float], Row] = {}
    for run in runs:
        for values in run["rows"]:
            row = _row(run["recipe"]["name"], values)
            place = (row.role, row.steps, row.sampler, row.guidance)
            found[place] = _joined(found[place], row) if place in found else row
    return found


def _row(name: str, values: dict[str, Any]) -> Row:
    return Row(**{**values, "role": name, "values": report.stats(values["values"])})


def _joined(a: Row, b: Row) -> Row:
    names = a.values.keys() & b.values.keys()
    values = {name: Stat(a.values[name].values + b.values[name].values) for name in sorted(names)}
    return Row(a.role, a.steps, a.evaluations, a.sampler, a.guidance, values)


def markdown(runs: Sequence[dict[str, Any]], base: Sequence[Row] = ()) -> str:
    """Sorted by steps, then method: what is to be compared stands together, below the base's own rows."""
    methods = merged(runs)
    places = sorted(methods, key=lambda place: (place[1], place[0], place[2]))
    rows = [*base, *(methods[place] for place in places)]
    columns = [column for column in measured(rows) if column.name in SHOWN]
    titles = ["steps", "method", "sampler", "guidance", *(column.title for column in columns)]
    cells = [
        [str(row.steps), row.role, row.sampler, f"{row.guidance:g}", *(cell(row, column) for column in columns)]
        for row in rows
    ]
    named = claims.by_name(runs, methods)
    parts = [_summary(runs), AT_A_GLANCE, overview(named), "All rows:", grid(titles, cells)]
    if held := claims.table(named):
        parts += ["What the paper says of the methods' order:", held]
    if held := claims.rivals_table(named):
        parts += ["Ours, the strongest rival by that measure, and whether it holds that ours is ahead:", held]
    return "\n\n".join([*parts, _costs(runs)])


def overview(methods: claims.Methods) -> str:
    """A line for each method, drawn by its own sampler: what matters most, at each number of steps."""
    names = sorted({name for name, _ in methods if not name.endswith(")")})
    steps = sorted({steps for _, steps in methods})
    cells = [[name, *(_glance(methods.get((name, n))) for n in steps)] for name in names]
    return grid(["method", *(f"{n} step{'s' * (n > 1)}" for n in steps)], cells)


def _glance(row: Row | None) -> str:
    if row is None or not all(name in row.values for name in GLANCE):
        return "–"
    alignment, quality, distance = (row.mean(name) for name in GLANCE)
    return f"{alignment:.3f}, {quality:.1f}, {distance:.1f}"


def _summary(runs: Sequence[dict[str, Any]]) -> str:
    about, seeds = runs[0]["about"], Counter(run["recipe"]["name"] for run in runs)
    least = min(seeds.values())
    flag = "" if least >= 3 else f"**{least} seed{'s' * (least > 1)} of some methods: a look, not a result.** "
    spent = [run["about"]["forward_equivalents"] for run in runs]
    budget = f"{min(spent):,} to {max(spent):,} forward-equivalents a run"
    return f"{flag}{budget}; {about['pictures']} pictures a set, split `{about['split']}`; {about['machine']}."


def _costs(runs: Sequence[dict[str, Any]]) -> str:
    titles = ["method", "seed", "iterations", "forward-equivalents", "minutes", "command"]
    cells = [
        [
            run["recipe"]["name"],
            str(run["recipe"]["seed"]),
            ", ".join(map(str, run["iterations"])),
            f"{run['about']['forward_equivalents']:,}",
            str(run["about"]["train_minutes"]),
            f"`{run['about']['command']}`",
        ]
        for run in runs
    ]
    return grid(titles, cells)


def write_page(folder: Path, page: Path) -> None:
    """Raises ValueError for a folder without results."""
    runs = read(folder)
    if not runs:
        raise ValueError(f"{folder} holds no results; `hypersd bench methods --out {folder}` makes some")
    note = f"Written from the JSON files in `{folder.name}/` by `{COMMAND}`."
    put(page, BEGIN, END, "\n\n".join([note, markdown(runs, beside.read(folder))]))


if __name__ == "__main__":
    given = [Path(argument) for argument in sys.argv[1:]]
    defaults = [Path("docs/results/methods"), Path("docs/results.md")]
    write_page(*[*given, *defaults[len(given) :]])
