"""The sheet of a comparison: each method drawn where it was trained for, blanks where it was not."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner

from hypersd import bases, recipe
from hypersd.cli import app
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
    with pytest.raises(ValueError, match=r"nothing at .*`hypersd bench methods` trains it"):
        gallery.gallery(runs[1:], ["a cat"], [1], 5.0)


def test_a_network_of_its_own_has_its_row_too(tiny_folder, tmp_path):
    """Of a recipe in a folder below, by the command."""
    model, recipes = tmp_path / "runs" / "whole-0" / "model", tmp_path / "recipes"
    shutil.copytree(tiny_folder, model)
    about = {"recipe": {}, "sampler": {"name": "ddim", "steps": [1]}}
    (model / bases.ABOUT).write_text(json.dumps(about))
    (recipes / "ablations").mkdir(parents=True)
    made = {**RECIPE, "base": str(tiny_folder), "sampler": about["sampler"]}
    (recipes / "of.yaml").write_text(yaml.safe_dump(made))
    (recipes / "ablations" / "whole.yaml").write_text("extends: ../of.yaml\nname: whole\nstudent: full\n")
    where = ["--recipes", str(recipes), "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "sheet.webp")]
    result = CliRunner().invoke(
        app, ["bench", "sheet", "a cat", "--methods", "ablations/whole", "--steps", "1", *where]
    )
    assert result.exit_code == 0, result.output
    assert "whole, 1 step" in result.stderr
    with Image.open(tmp_path / "sheet.webp") as sheet:
        assert sheet.height > 3 * 16  # the teacher, the base, and it
