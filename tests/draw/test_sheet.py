"""The geometry of contact sheets: every picture whole and where its row and column say."""

from __future__ import annotations

import pytest
from PIL import Image

from hypersd.draw.sheet import (
    GAP,
    GROUP_GAP,
    LABEL_WIDTH,
    Column,
    Sheet,
    _font,
    arrange,
    render,
    shown_size,
    wrap,
)

COLOURS = [["#ff0000", "#00ff00", "#0000ff"], ["#ffff00", "#ff00ff", "#00ffff"]]
COLUMNS = [Column("original", "25 steps"), Column("distilled", "1 step"), Column("distilled", "2 steps")]


def make_sheet(size: tuple[int, int] = (64, 64), note: str = "") -> Sheet:
    cells = [[Image.new("RGB", size, colour) for colour in row] for row in COLOURS]
    return Sheet(["a fox", "a very long prompt that needs several lines to be read"], COLUMNS, cells, note)


@pytest.mark.parametrize(
    ("size", "shown"),
    [((64, 64), (128, 128)), ((16, 16), (128, 128)), ((128, 128), (128, 128)), ((96, 96), (96, 96)),
     ((512, 512), (256, 256)), ((64, 32), (128, 64)), ((1024, 768), (256, 192))],
)  # fmt: skip
def test_pictures_are_scaled_by_an_integer(size: tuple[int, int], shown: tuple[int, int]) -> None:
    assert shown_size(size) == shown


def test_every_picture_lies_whole_in_its_own_place() -> None:
    sheet = make_sheet()
    layout, page = arrange(sheet), render(sheet)
    assert page.size == layout.size
    width, height = layout.cell
    for row, top in enumerate(layout.tops):
        for column, left in enumerate(layout.lefts):
            inside = page.crop((left + 1, top + 1, left + width - 1, top + height - 1))
            assert inside.getextrema() == Image.new("RGB", (1, 1), COLOURS[row][column]).getextrema()


def test_groups_stand_apart_and_nothing_overlaps() -> None:
    layout = arrange(make_sheet())
    width, height = layout.cell
    first, second, third = layout.lefts
    assert second - first - width == GROUP_GAP
    assert third - second - width == GAP
    assert layout.tops[1] - layout.tops[0] - height == GAP


def test_the_margin_is_white_with_and_without_a_note() -> None:
    for note in ("", "The same noise along each row."):
        page = render(make_sheet(note=note))
        assert page.crop((0, 0, page.width, 8)).getextrema() == ((255, 255),) * 3
        assert page.crop((0, page.height - 8, page.width, page.height)).getextrema() == ((255, 255),) * 3
        assert page.crop((page.width - 8, 0, page.width, page.height)).getextrema() == ((255, 255),) * 3


def test_turning_puts_ways_in_rows() -> None:
    turned = make_sheet().turned()
    assert turned.rows == ["original: 25 steps", "distilled: 1 step", "distilled: 2 steps"]
    assert [cell.getpixel((0, 0)) for cell in turned.cells[1]] == [(0, 255, 0), (255, 0, 255)]
    render(turned)


@pytest.mark.parametrize("text", ["word " * 50, "x" * 200, "a fox", ""])
def test_labels_never_leave_their_column(text: str) -> None:
    lines = wrap(text, LABEL_WIDTH, 16)
    assert len(lines) <= 5
    assert all(_font(16).getlength(line) <= LABEL_WIDTH for line in lines)
    assert ("…" in "".join(lines)) == (len(text) > 100)
