"""hypersd sample: one prompt, one or more pictures."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hypersd.cli.options import HIGHEST_SEED, OUTPUTS, check_png, find_lora, numbered, slug

if TYPE_CHECKING:
    from hypersd.draw.pipeline import Drawer, Settings
    from hypersd.draw.png import Drawing


def sample(
    prompt: Annotated[str, typer.Argument(help="What to draw.")],
    steps: Annotated[
        int | None,
        typer.Option(
            help="1 to 8 with a LoRA, or as it was made for; up to 100 without. (default: 4, or fewer if so made)"
        ),
    ] = None,
    base: Annotated[str, typer.Option(help="emoji (bundled), toy, or a diffusers folder.")] = "emoji",
    lora: Annotated[
        str | None, typer.Option(help="A .safetensors file, bundled, or none. (default: bundled with emoji)")
    ] = None,
    scale: Annotated[float, typer.Option(help="Strength of the LoRA; 1 is as trained.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, max=HIGHEST_SEED, help="Of the first picture.")] = 0,
    count: Annotated[int, typer.Option(min=1, max=1000, help="Pictures, seeds counting up.")] = 1,
    negative: Annotated[str, typer.Option(help="What not to draw; needs --nag, or guidance above 1.")] = "",
    nag: Annotated[float, typer.Option(help="How far from the negative prompt, such as 3; 1 is off.")] = 1.0,
    nag_tau: Annotated[float, typer.Option(help="How much NAG may enlarge what the prompt answers.")] = 2.5,
    nag_alpha: Annotated[float, typer.Option(help="How much of NAG is mixed in, 0 to 1.")] = 0.5,
    guidance: Annotated[
        float | None, typer.Option(help="1 (or 0) is off. (default: the LoRA's, 1; without a LoRA 5)")
    ] = None,
    sampler: Annotated[str | None, typer.Option(help="ddim, tcd or lcm. (default: the LoRA's, or ddim)")] = None,
    eta: Annotated[float | None, typer.Option(help="TCD's noise, 0 to 1.")] = None,
    one_step: Annotated[
        int | None,
        typer.Option(help="The timestep that a single step begins at, such as 800. (default: the LoRA's, or 999)"),
    ] = None,
    width: Annotated[int | None, typer.Option(help="In pixels. (default: the base's)")] = None,
    height: Annotated[int | None, typer.Option(help="In pixels. (default: the base's)")] = None,
    out: Annotated[Path | None, typer.Option(help="A .png file. (default: in outputs/)")] = None,
) -> None:
    """Draw a prompt. The PNG says how it was drawn."""
    path, file = check_png(out) if out else None, find_lora(lora, base)

    from hypersd.draw import png
    from hypersd.draw.pipeline import Drawer, check_prompt, settings_for, usual_steps

    check_prompt(prompt)
    drawer = Drawer.load(base, file, scale)
    if steps is None:
        steps = usual_steps(drawer.made)
    path = path or check_png(OUTPUTS / f"{slug(prompt)}-{steps}steps-seed{seed}.png")
    others = {"negative": negative, "nag_scale": nag, "nag_tau": nag_tau, "nag_alpha": nag_alpha}
    size = {"width": width, "height": height}
    settings = settings_for(drawer.made, steps, sampler, eta, guidance, one_step, **others, **size)
    for number in range(seed, seed + count):
        began = time.perf_counter()
        picture = png.to_pil(drawer.draw([prompt], [number], settings)[0])
        seconds = time.perf_counter() - began
        target = numbered(path, number, count)
        drawing = _drawing(drawer, prompt, number, settings, scale, picture.size)
        png.write(target, picture, drawing)
        typer.echo(f"{target}  {seconds:.2f} s")


def _drawing(
    drawer: Drawer, prompt: str, seed: int, settings: Settings, scale: float, size: tuple[int, int]
) -> Drawing:
    from hypersd.draw.png import Drawing

    return Drawing(
        prompt=prompt,
        seed=seed,
        steps=settings.steps,
        sampler=settings.sampler,
        sampler_settings=settings.sampler_settings,
        guidance_scale=settings.guidance_scale,
        negative=settings.negative,
        nag=asdict(settings.nag) if settings.nag.on else {},
        width=size[0],
        height=size[1],
        base=Path(drawer.base.source).name,
        lora=drawer.lora_name,
        lora_scale=scale,
    )
