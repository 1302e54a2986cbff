"""What recipes/cfg.yaml makes is drawn with guidance, with a negative prompt too, in up to 12 steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from hypersd.cli import app
from hypersd.draw import png
from hypersd.lora import files

RECIPE = Path(__file__).parents[2] / "recipes" / "cfg.yaml"
SMALL = ("data.pool=4", "data.steps=2", "batch=4", "lora.rank=2", "optimiser.warmup=0", "precision=fp32")
SHORT = ("stages.0.iterations=1", "stages.1.iterations=1")


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def made(tiny_folder, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("cfg") / "run"
    return Path(run("train", RECIPE, f"base={tiny_folder}", *SMALL, *SHORT, "--out", out).splitlines()[-1])


@pytest.fixture
def draw(made, tiny_folder, tmp_path):
    """Draws a fox with the LoRA; its picture, how it was drawn, and what was said."""

    def sample(*how: object) -> tuple[np.ndarray, png.Drawing, str]:
        said = run("sample", "a fox", "--base", tiny_folder, "--lora", made, *how, "--out", tmp_path / "fox.png")
        return np.asarray(Image.open(tmp_path / "fox.png")).astype(int), png.read(tmp_path / "fox.png"), said

    return sample


def test_the_lora_says_how_it_wants_to_be_drawn(made):
    said = files.read(made).sampler
    assert (said["steps"], said["guidance_scale"]) == ([4, 8, 12], 5.0)
    assert said["hint"] == "4, 8 or 12 steps, DDIM trailing, guidance 3 to 8"


@pytest.mark.parametrize("steps", [4, 12])
def test_guidance_and_a_negative_prompt_act(draw, steps):
    """Unless told otherwise with the guidance of its header, and nothing is said to do nothing."""
    plain, how, said = draw("--steps", steps)
    assert (how.steps, how.sampler, how.guidance_scale) == (steps, "ddim", 5.0)
    assert "notice" not in said
    steered, how, said = draw("--steps", steps, "--negative", "a dog")
    assert how.negative == "a dog"
    assert "notice" not in said
    assert np.array_equal(draw("--steps", steps, "--guidance", 5)[0], plain)
    assert np.abs(steered - plain).max() > 2
    assert np.abs(draw("--steps", steps, "--guidance", 1)[0] - plain).max() > 2


def test_more_steps_than_it_was_made_for_are_refused(made, tiny_folder):
    said = run("sample", "a fox", "--base", tiny_folder, "--lora", made, "--steps", 13, code=2)
    assert "steps must be from 1 to 12 with a few-step LoRA, not 13" in said
