"""What an evaluation found: dataclasses, JSON, a table for the terminal, and the tables of docs/results.md.

    python -m hypersd.evaluate.report [docs/results] [docs/results.md]

writes the page between its markers anew from the JSON files in the folder, and touches nothing else but the
yardsticks in these files, which are those of today.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypersd.atomic import write_bytes

if TYPE_CHECKING:
    from rich.table import Table

BEGIN, END = "<!-- evaluation: begin -->", "<!-- evaluation: end -->"
SIGN = {True: "≥", False: "≤"}
COMMAND = "python -m hypersd.evaluate.report"


@dataclass(frozen=True)
class Stat:
    """One number for each set of seeds."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def spread(self) -> float | None:
        """The sample standard deviation over sets."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


@dataclass(frozen=True)
class Row:
    """One way of drawing, and what was measured. A name that is not in `values` was not measured."""

    role: str  # teacher, undistilled at equal steps, undistilled at equal evaluations, hardness, distilled
    steps: int
    evaluations: int
    sampler: str
    guidance: float
    values: dict[str, Stat] = field(default_factory=dict)

    def mean(self, name: str) -> float:
        return self.values[name].mean


@dataclass(frozen=True)
class Yardstick:
    """A claim of the project's and whether it holds: `value` at least, or at most, `bound`."""

    claim: str
    value: float
    bound: float
    at_least: bool

    @property
    def holds(self) -> bool:
        return self.value >= self.bound if self.at_least else self.value <= self.bound


@dataclass(frozen=True)
class Report:
    rows: tuple[Row, ...]
    yardsticks: tuple[Yardstick, ...]
    reference: dict[str, float]
    """Floors, and what real pictures and the ends of the alignment scale get."""
    paths: dict[str, dict[str, Stat]] = field(default_factory=dict)
    """Path fidelity: who jumps -> "k=4" (mean of its segments) or "k=4 segment 2" -> relative error."""
    selection: dict[str, dict[str, float]] = field(default_factory=dict)
    """How each undistilled baseline was chosen: "4 steps" -> candidate -> distance to the teacher."""
    about: dict[str, Any] = field(default_factory=dict)
    """Command, date, versions, machine, hashes, settings."""

    @property
    def quick(self) -> bool:
        """Too few pictures or sets for its numbers to be quoted."""
        return bool(self.about.get("quick", False))

    def write(self, path: Path) -> None:
        """Keys in the order of the tables, which `read` keeps."""
        write_bytes(path, (json.dumps(plain(self), separators=(",", ":")) + "\n").encode())


@dataclass(frozen=True)
class Column:
    title: str
    name: str
    digits: int = 2
    factor: float = 1.0


COLUMNS = (
    Column("alignment", "alignment", 3),
    Column("chance", "chance", 3),
    Column("R@1 %", "recall_at_1", 1, 100),
    Column("quality", "quality", 2),
    Column("FD to teacher", "fd_teacher", 2),
    Column("over undistilled", "fd_ratio", 2),
    Column("FD to real", "fd_real", 2),
    Column("KID ×1000", "kid", 2, 1000),
    Column("FD ResNet50", "fd_second", 1),
    Column("precision", "precision", 2),
    Column("recall", "recall", 2),
    Column("saturation", "saturation", 2),
    Column("LPIPS over seeds", "diversity", 3),
    Column("path error", "path", 3),
    Column("s/picture", "seconds", 3),
)


BRIEF = {"alignment": "align", "recall_at_1": "R@1 %", "fd_teacher": "FD", "fd_ratio": "ratio", "path": "path"}
"""Of these the terminal shows, under shorter titles."""


def plain(value: Any) -> Any:
    """What a file holds of it: a Stat is its list, and numbers have six digits, more than any of them means."""
    if isinstance(value, Stat):
        return plain(value.values)
    if is_dataclass(value):
        return {part.name: plain(getattr(value, part.name)) for part in fields(value)}
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, (list, tuple)) else value


def read(path: Path) -> Report:
    """With the yardsticks of today, whatever was asked when it was written. Raises ValueError for what is no report."""
    from hypersd.evaluate.yardsticks import yardsticks

    try:
        values = json.loads(path.read_text())
        rows = tuple(Row(**{**row, "values": stats(row["values"])}) for row in values["rows"])
        paths = {who: stats(found) for who, found in values["paths"].items()}
        reference, selection, about = (values[name] for name in ("reference", "selection", "about"))
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a report of `hypersd evaluate`: {error}") from error
    return Report(rows, tuple(yardsticks(rows, reference)), reference, paths, selection, about)


def stats(values: dict[str, Any]) -> dict[str, Stat]:
    """Of a file's lists; files of an older program say {"values": [..]} for [..]."""
    return {name: Stat(tuple(found["values"] if isinstance(found, dict) else found)) for name, found in values.items()}


def cell(row: Row, column: Column) -> str:
    """ "0.970 ± 0.004"; a dash where nothing was measured."""
    if column.name not in row.values:
        return "–"
    found = row.values[column.name]
    text = f"{found.mean * column.factor:.{column.digits}f}"
    return text if found.spread is None else f"{text} ± {found.spread * column.factor:.{column.digits}f}"


def measured(rows: Sequence[Row]) -> list[Column]:
    """The columns that at least one row has."""
    return [column for column in COLUMNS if any(column.name in row.values for row in rows)]


def lines(report: Report) -> tuple[list[str], list[list[str]]]:
    """Titles and cells of the main table."""
    columns = measured(report.rows)
    titles = ["", "steps", "evaluations", "sampler", "guidance", *(column.title for column in columns)]
    cells = [
        [row.role, str(row.steps), str(row.evaluations), row.sampler, f"{row.guidance:g}"]
        + [cell(row, column) for column in columns]
        for row in report.rows
    ]
    return titles, cells


def table(report: Report) -> Table:
    """The numbers that matter most, narrow enough for a terminal; the rest is in the JSON and on the page."""
    from rich.table import Table

    columns = [column for column in measured(report.rows) if column.name in BRIEF]
    drawn = Table(title="a quick look: too few pictures to quote" if report.quick else None)
    for title in ("who", "steps", "sampler", *(BRIEF[column.name] for column in columns)):
        drawn.add_column(title, no_wrap=title != "who")
    for row in report.rows:
        sampler = row.sampler if row.guidance == 1 else f"{row.sampler} w {row.guidance:g}"
        drawn.add_row(row.role, str(row.steps), sampler, *(cell(row, column) for column in columns))
    return drawn


def verdicts(report: Report) -> Table:
    """The yardsticks for a terminal."""
    from rich.table import Table

    drawn = Table("yardstick", "reached", "asked", "holds")
    for row in _yardstick_cells(report):
        drawn.add_row(*row)
    return drawn


def _yardstick_cells(report: Report) -> list[list[str]]:
    return [
        [y.claim, f"{y.value:.3f}", f"{SIGN[y.at_least]} {y.bound:.3g}", "yes" if y.holds else "no"]
        for y in report.yardsticks
    ]


def markdown(report: Report, name: str) -> str:
    """One report as a section of docs/results.md."""
    about = report.about
    parts = [f"### {name}", _summary(report), grid(*lines(report))]
    parts.append(", ".join(f"{name} {value:.4g}" for name, value in report.reference.items()) + ".")
    if report.paths:
        parts += ["One jump over each of k segments, relative error in latents (mean of segments):"]
        parts += [_paths(report)]
    if report.selection:
        parts += ["The undistilled baselines are the nearest to the teacher, by FD on smaller sets, of:"]
        parts += [_choice(report)]
    if report.yardsticks:
        parts.append(grid(["yardstick", "reached", "asked", "holds"], _yardstick_cells(report)))
    parts.append(f"`{about.get('command', '')}`")
    return "\n\n".join(parts)


def _summary(report: Report) -> str:
    about = report.about
    words = [f"{about.get('pictures')} pictures a set, {about.get('seeds')} sets of seeds"]
    words += [f"split `{about.get('split')}`, guidance {about.get('guidance')}"]
    threads = about.get("threads")
    words += [f"{about.get('date')}, {about.get('machine')}, {threads} thread{'s' * (threads != 1)}"]
    if "drawing_seconds" in about:
        words += [f"{about['drawing_seconds'] / 60:.1f} min of drawing"]
    words += [f"{k} {v[:12]}" for k, v in about.get("sha256", {}).items()]
    flag = "**A quick look: too few pictures to quote.** " if report.quick else ""
    return flag + "; ".join(words) + "."


def _paths(report: Report) -> str:
    names = [name for name in next(iter(report.paths.values())) if "segment" not in name]
    cells = [
        [who, *(cell(Row("", 0, 0, "", 0, found), Column("", name, 3)) for name in names)]
        for who, found in report.paths.items()
    ]
    return grid(["", *names], cells)


def _choice(report: Report) -> str:
    cells = [
        [where, min(found, key=found.__getitem__), ", ".join(f"{who} {fd:.3g}" for who, fd in found.items())]
        for where, found in report.selection.items()
    ]
    return grid(["at", "best", "all"], cells)


def grid(titles: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    rows = [titles, ["---"] * len(titles), *cells]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def write_page(folder: Path, page: Path) -> None:
    """Puts every report of a folder between the page's markers, which are added at its end if missing."""
    found = {path: read(path) for path in sorted(folder.glob("*.json"))}
    for path, kept in found.items():
        kept.write(path)  # its numbers as they are, its yardsticks as they are asked today
    reports = [markdown(kept, path.stem) for path, kept in found.items()]
    note = f"Written from the JSON files in `{folder.name}/` by `{COMMAND}`; see [evaluate.md](evaluate.md)."
    put(page, BEGIN, END, "\n\n".join([note, *reports]))


def put(page: Path, begin: str, end: str, middle: str) -> None:
    """Writes what stands between two markers of a page anew, and nothing else."""
    text = page.read_text() if page.is_file() else "# Results\n"
    if begin not in text:
        text = f"{text.rstrip()}\n\n{begin}\n{end}\n"
    before, _, rest = text.partition(begin)
    write_bytes(page, (f"{before}{begin}\n\n{middle}\n\n{end}" + rest.partition(end)[2]).encode())


if __name__ == "__main__":
    given = [Path(argument) for argument in sys.argv[1:]]
    defaults = [Path("docs/results"), Path("docs/results.md")]
    write_page(*[*given, *defaults[len(given) :]])
