"""Contact sheets: a table of pictures with words beside and above it, on white.

Knows nothing of models: pictures and labels in, one picture out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby

from PIL import Image, ImageDraw, ImageFont

CELL = 128  # pixels that a picture should have on the sheet, reached by an integer factor
GAP, GROUP_GAP, MARGIN = 8, 28, 32
LABEL_WIDTH = 190
TEXT_SIZE, SMALL_SIZE = 16, 14
INK, MUTED, RULE, EDGE = "#1a1a1a", "#6b6b6b", "#c8c8c8", "#ececec"
MOST_LINES = 5


@dataclass(frozen=True)
class Column:
    """A column's heading; neighbours of the same group stand together under the group's name."""

    group: str
    label: str


@dataclass(frozen=True)
class Sheet:
    """`cells[row][column]`, pictures of one size."""

    rows: Sequence[str]
    columns: Sequence[Column]
    cells: Sequence[Sequence[Image.Image]]
    note: str = ""

    def __post_init__(self) -> None:
        assert len(self.rows) == len(self.cells), "one label for each row"
        assert all(len(row) == len(self.columns) for row in self.cells), "one picture for each column"
        assert len({cell.size for row in self.cells for cell in row}) == 1, "pictures of one size"

    def turned(self) -> Sheet:
        """Rows as columns: each way of drawing becomes a strip, its pictures without headings."""
        rows = [f"{column.group}: {column.label}" for column in self.columns]
        cells = [[row[i] for row in self.cells] for i in range(len(self.columns))]
        return Sheet(rows, [Column("", "")] * len(self.rows), cells, self.note)


@dataclass(frozen=True)
class Layout:
    """Where everything lies, in pixels."""

    cell: tuple[int, int]
    lefts: list[int]
    tops: list[int]
    size: tuple[int, int]


def shown_size(size: tuple[int, int]) -> tuple[int, int]:
    """Enlarged by an integer factor to about `CELL` pixels, or reduced by one when more than twice that."""
    longest = max(size)
    if longest > 2 * CELL:
        divisor = longest // (2 * CELL)
        return (size[0] // divisor, size[1] // divisor)
    factor = max(1, round(CELL / longest))
    return (size[0] * factor, size[1] * factor)


def arrange(sheet: Sheet) -> Layout:
    width, height = shown_size(sheet.cells[0][0].size)
    lefts, x = [], MARGIN + LABEL_WIDTH + GAP * 2
    for index, column in enumerate(sheet.columns):
        if index:
            x += GAP if column.group == sheet.columns[index - 1].group else GROUP_GAP
        lefts.append(x)
        x += width
    headed = any(column.group or column.label for column in sheet.columns)
    top = MARGIN + (56 if headed else 0)
    tops = [top + row * (height + GAP) for row in range(len(sheet.rows))]
    bottom = tops[-1] + height + (SMALL_SIZE * 2 + GAP if sheet.note else 0)
    return Layout((width, height), lefts, tops, (x + MARGIN, bottom + MARGIN))


def render(sheet: Sheet) -> Image.Image:
    layout = arrange(sheet)
    page = Image.new("RGB", layout.size, "white")
    draw = ImageDraw.Draw(page)
    _headings(draw, sheet, layout)
    for label, cells, top in zip(sheet.rows, sheet.cells, layout.tops, strict=True):
        _row_label(draw, label, top, layout.cell[1])
        for cell, left in zip(cells, layout.lefts, strict=True):
            page.paste(_shown(cell, layout.cell), (left, top))
            draw.rectangle((left, top, left + layout.cell[0] - 1, top + layout.cell[1] - 1), outline=EDGE)
    if sheet.note:
        draw.text((MARGIN, layout.size[1] - MARGIN), sheet.note, MUTED, _font(SMALL_SIZE), anchor="ls")
    return page


def _headings(draw: ImageDraw.ImageDraw, sheet: Sheet, layout: Layout) -> None:
    half = layout.cell[0] // 2
    for column, left in zip(sheet.columns, layout.lefts, strict=True):
        draw.text((left + half, layout.tops[0] - GAP), column.label, MUTED, _font(SMALL_SIZE), anchor="ms")
    for group, members in groupby(range(len(sheet.columns)), key=lambda i: sheet.columns[i].group):
        if not group:
            continue
        indices = list(members)
        left, right = layout.lefts[indices[0]], layout.lefts[indices[-1]] + layout.cell[0] - 1
        rule = layout.tops[0] - 28
        draw.line((left, rule, right, rule), RULE)
        text = _cut(group, right - left + GROUP_GAP // 2, TEXT_SIZE)
        draw.text(((left + right) // 2, rule - 8), text, INK, _font(TEXT_SIZE), anchor="ms")


def _row_label(draw: ImageDraw.ImageDraw, label: str, top: int, height: int) -> None:
    lines = wrap(label, LABEL_WIDTH, TEXT_SIZE)
    spacing = TEXT_SIZE + 5
    first = top + height // 2 - spacing * (len(lines) - 1) // 2
    for index, line in enumerate(lines):
        draw.text((MARGIN, first + index * spacing), line, INK, _font(TEXT_SIZE), anchor="lm")


def wrap(text: str, width: int, size: int, most: int = MOST_LINES) -> list[str]:
    """Lines no wider than `width` pixels, broken between words; what does not fit ends in an ellipsis."""
    lines: list[str] = []
    for word in text.split():
        if lines and _width(f"{lines[-1]} {word}", size) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    if len(lines) > most:
        lines = [*lines[: most - 1], " ".join(lines[most - 1 :])]
    return [_cut(line, width, size) for line in lines]


def _cut(line: str, width: int, size: int) -> str:
    if _width(line, size) <= width:
        return line
    while line and _width(f"{line}…", size) > width:
        line = line[:-1]
    return f"{line.rstrip(' ,')}…"


def _width(text: str, size: int) -> float:
    return _font(size).getlength(text)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _shown(cell: Image.Image, size: tuple[int, int]) -> Image.Image:
    return cell.convert("RGB").resize(size, Image.Resampling.LANCZOS)
