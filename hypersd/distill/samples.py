"""A strip of samples from a student in training: one row a prompt, one column a step count."""

from __future__ import annotations

from pathlib import Path

from hypersd.bases import Base
from hypersd.distill.step import STUDENT
from hypersd.draw.pipeline import Drawer, Settings
from hypersd.lora.roles import Roles
from hypersd.recipe import Recipe


def draw_strip(base: Base, roles: Roles, recipe: Recipe, out: Path, stage: int, iteration: int) -> Path:
    """Draws `recipe.sample_prompts` with the reference sampler; returns the picture's path."""
    from hypersd.draw.sheet import save_sheet

    drawer = Drawer(base, roles=roles)
    drawer.playing = (STUDENT,)
    prompts = list(recipe.sample_prompts)
    columns = {
        f"{steps} step{'s' if steps > 1 else ''}": drawer.draw(prompts, range(len(prompts)), Settings(steps))
        for steps in recipe.draw.steps
    }
    path = out / "samples" / f"stage{stage + 1}-{iteration:06d}.png"
    save_sheet(path, columns, prompts)
    return path
