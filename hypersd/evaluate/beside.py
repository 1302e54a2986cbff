"""What the base draws beside all methods of a comparison: `base.json`, its best rows by name.

Every run measures the base as well, from the same cache, and keeps here what it found; `hypersd bench base` measures
the base alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypersd import sharing
from hypersd.atomic import write_json
from hypersd.evaluate.report import Report, Row, plain, stats

NAME = "base.json"
ALIKE = ("split", "pictures", "seeds", "guidance")
"""What rows must have been measured with to stand in one table; guidance is the teacher's."""
BEST = {"undistilled, equal steps": "steps", "undistilled, equal evaluations": "evaluations"}
"""What a row is the best of, by its role."""


def keep(folder: Path, report: Report, anew: bool = False) -> None:
    """Adds a report's rows of the base to those that are there, or puts them in their place; safe side by side.

    Raises ValueError where those that are there were measured otherwise.
    """
    file, measured = folder / NAME, {key: report.about[key] for key in ALIKE}
    rows = [plain(row) for row in report.rows if row.role != "distilled"]
    with sharing.claimed(file, wait=True):
        before = {} if anew else _kept(folder)
        about = before.get("about", measured)
        if about != {key: measured[key] for key in about}:
            raise ValueError(f"{file} was measured otherwise, {about}: delete it, or give --out of its own")
        found = {_place(row): row for row in [*before.get("rows", []), *rows]}
        selection = {**before.get("selection", {}), **plain(report.selection)}
        ordered = [found[place] for place in sorted(found)]
        write_json(file, {"about": measured, "rows": ordered, "selection": selection}, indent=None)


def guidance(folder: Path) -> float | None:
    """The teacher's, that the rows in a folder were measured against; None where there are none."""
    found: float | None = _kept(folder).get("about", {}).get("guidance")
    return found


def _kept(folder: Path) -> dict[str, Any]:
    return json.loads((folder / NAME).read_text()) if (folder / NAME).is_file() else {}


def _place(row: Mapping[str, Any]) -> tuple[str, int]:
    """Of each role there is one row for each number of steps, or of evaluations."""
    return row["role"], row[BEST.get(row["role"], "steps")]


def read(folder: Path) -> list[Row]:
    """One row for each way of drawing, the most steps first; its role names what it is the best of."""
    found: dict[tuple[int, float, str], Row] = {}
    names: dict[tuple[int, float, str], list[str]] = {}
    for row in reversed(_kept(folder).get("rows", [])):  # steps before evaluations
        way = row["steps"], row["guidance"], row["sampler"]
        found[way] = Row(**{**row, "values": stats(row["values"])})
        names.setdefault(way, []).extend(_best_of(*_place(row)))
    return [_named(found[way], names[way]) for way in sorted(found, reverse=True)]


def _best_of(role: str, count: int) -> list[str]:
    return [f"{count} {BEST[role][: -1 if count == 1 else None]}"] if role in BEST else []


def _named(row: Row, best_of: list[str]) -> Row:
    words = ["the teacher"] if row.role == "teacher" else []
    words += [f"best training-free at {' and '.join(best_of)}"] if best_of else []
    return replace(row, role=", ".join(["base", *words]))
