"""The sheet of a comparison: each method drawn where it was trained for, blanks where it was not."""

from __future__ import annotations

import pytest
import torch

from hypersd import recipe
from hypersd.draw.compare import Drawn, Way
from hypersd.draw.pipeline import Settings
from hypersd.evaluate import gallery
from hypersd.evaluate.gallery import BASE, TEACHER, arranged
from hypersd.evaluate.methods import Run
from hypersd.evaluate.protocol import TEACHER_STEPS
from tests.distill.killer import RECIPE


def drawn(group: str, steps: int, grey: float) -> Drawn:
    return Drawn(Way(group, Settings(steps=steps)), torch.full((2, 3, 4, 4), grey), 0.0)


def test_every_picture_stands_in_its_row_and_column():
    made = [
        drawn(TEACHER, TEACHER_STEPS, 0.0),
        *(drawn(BASE, n, 0.2 * n) for n in (1, 2)),
        drawn("pcm", 2, 0.6),
    ]
    sheet = arranged(made, ["a cat", "a dog"], [1, 2])
    assert list(sheet.rows) == [TEACHER, BASE, "pcm"]
    assert [(column.group, column.label) for column in sheet.columns] == [
        *(("1 step", "1"), ("1 step", "2")),
        *(("2 steps", "1"), ("2 steps", "2")),
    ]
    greys = [[cell.getpixel((0, 0))[0] for cell in row] for row in sheet.cells]
    assert greys == [[0] * 4, [51, 51, 102, 102], [255, 255, 153, 153]]  # PCM drew nothing in 1 step
    assert "1: a cat" in sheet.note


def test_what_was_not_trained_or_has_another_base_is_told(tmp_path):
    runs = [Run(recipe.parse({**RECIPE, "base": base}), tmp_path, tmp_path) for base in ("toy", "emoji")]
    with pytest.raises(ValueError, match="these recipes have 2: emoji, toy"):
        gallery.gallery(runs, ["a cat"], [1], 5.0)
    with pytest.raises(ValueError, match=r"no LoRA at .*`hypersd bench methods` trains it"):
        gallery.gallery(runs[1:], ["a cat"], [1], 5.0)
