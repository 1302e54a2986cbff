"""A strip of samples from a student in training: one row a prompt, one column a step count."""

from __future__ import annotations

from pathlib import Path

from hypersd.bases import Base
from hypersd.diffusion import samplers
from hypersd.draw import png
from hypersd.draw.pipeline import Drawer, Settings
from hypersd.draw.sheet import Column, Sheet, render
from hypersd.lora.roles import Roles
from hypersd.recipe import Recipe


def draw_strip(
    base: Base, roles: Roles, playing: tuple[str, ...], recipe: Recipe, out: Path, stage: int, iteration: int
) -> Path:
    """Draws `recipe.sample_prompts`, guided as the recipe says, with the reference sampler; returns the file."""
    drawer = Drawer(base, roles=roles)
    drawer.playing, drawer.step_code = playing, recipe.sampler.step_code
    prompts = list(recipe.sample_prompts)
    counts = sorted(set(recipe.draw.steps))
    own = samplers.meant(recipe.sampler.model_dump(), "ddim")
    guidance = recipe.sampler.guidance_scale
    drawn = [drawer.draw(prompts, range(len(prompts)), Settings(steps, "ddim", own, guidance)) for steps in counts]
    columns = [Column("DDIM trailing", f"{steps} step{'s' if steps > 1 else ''}") for steps in counts]
    cells = [[png.to_pil(images[row]) for images in drawn] for row in range(len(prompts))]
    path = out / "samples" / f"stage{stage + 1}-{iteration:06d}.png"
    note = f"stage {stage + 1}, iteration {iteration}" + (f", guidance {guidance:g}" if guidance != 1 else "")
    png.write(path, render(Sheet(prompts, columns, cells, note)))
    return path
