"""What a PNG says of itself comes back as it went in."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from hypersd.draw import png
from hypersd.draw.png import Drawing

DRAWING = Drawing(
    prompt="a fox, “flat” style\nat night",
    seed=7,
    steps=4,
    sampler="tcd",
    sampler_settings={"eta": 0.3},
    guidance_scale=2.0,
    negative="a dog",
    width=16,
    height=8,
    base="emoji",
    lora="hyper",
    lora_scale=0.5,
)


def test_a_drawing_comes_back_as_it_was(tmp_path) -> None:
    path = tmp_path / "fox.png"
    png.write(path, Image.new("RGB", (16, 8)), DRAWING)
    assert png.read(path) == DRAWING
    assert [file.name for file in tmp_path.iterdir()] == ["fox.png"]


def test_the_parameters_are_as_uis_write_them(tmp_path) -> None:
    path = tmp_path / "fox.png"
    png.write(path, Image.new("RGB", (16, 8)), DRAWING)
    with Image.open(path) as picture:
        *prompt, negative, settings = picture.info["parameters"].splitlines()
    assert prompt == ["a fox, “flat” style", "at night <lora:hyper:0.5>"]
    assert negative == "Negative prompt: a dog"
    pairs = dict(pair.split(": ") for pair in settings.split(", "))
    assert pairs["Steps"] == "4"
    assert pairs["Sampler"] == "TCD"
    assert pairs["CFG scale"] == "2"
    assert pairs["Seed"] == "7"
    assert pairs["Size"] == "16x8"
    assert pairs["Eta"] == "0.3"


def test_trailing_ddim_goes_by_the_name_that_uis_have_for_it() -> None:
    drawing = Drawing("a fox", 0, 4, "ddim", 1.0, 64, 64, "emoji")
    assert "Sampler: Euler, Schedule type: SGM Uniform" in drawing.parameters()
    assert drawing.parameters().splitlines()[0] == "a fox"


def test_a_picture_of_others_does_not_say_how_it_was_drawn(tmp_path) -> None:
    Image.new("RGB", (2, 2)).save(tmp_path / "other.png")
    with pytest.raises(ValueError, match=r"other\.png does not say"):
        png.read(tmp_path / "other.png")


def test_colours_are_rounded_not_cut() -> None:
    image = torch.tensor([0.0, 127.6 / 255, 1.2]).view(3, 1, 1)
    assert png.to_pil(image).getpixel((0, 0)) == (0, 128, 255)
