"""Strips of samples are drawn as the result is to be used."""

from __future__ import annotations

import pytest

from hypersd import recipe
from hypersd.distill.samples import draw_strip
from hypersd.draw.pipeline import Drawer
from hypersd.lora.roles import Roles


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_a_strip_is_guided_as_the_recipe_says(tiny_base, tmp_path, monkeypatch, guidance):
    draw, asked = Drawer.draw, []

    def seen(self, prompts, seeds, settings):
        asked.append((settings.steps, settings.guidance_scale))
        return draw(self, prompts, seeds, settings)

    monkeypatch.setattr(Drawer, "draw", seen)
    values = {"name": "strip", "stages": [{"segments": 1, "iterations": 1}], "sample_prompts": ["a fox"]}
    made = recipe.parse({**values, "draw": {"steps": [2, 1]}, "sampler": {"guidance_scale": guidance}})
    path = draw_strip(tiny_base, Roles(tiny_base.unet), (), made, tmp_path, 0, 50)
    assert path == tmp_path / "samples" / "stage1-000050.png"
    assert path.is_file()
    assert asked == [(1, guidance), (2, guidance)]
