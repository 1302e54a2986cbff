"""hypersd compare: a contact sheet, rows of prompts, columns of ways to draw them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hypersd.cli.options import HIGHEST_SEED, OUTPUTS, check_png, find_lora, numbers

if TYPE_CHECKING:
    from hypersd.draw.compare import Way
    from hypersd.draw.pipeline import Settings


def compare(
    prompts: Annotated[list[str] | None, typer.Argument(help="One row each. (default: the demo's eight)")] = None,
    prompts_file: Annotated[Path | None, typer.Option(help="More prompts, one a line.")] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="original, bundled, a LoRA or a distilled folder, with /SAMPLER if not its own; repeat for more."
        ),
    ] = None,
    steps: Annotated[str, typer.Option(help="Of every method, with commas between.")] = "1,2,4,8",
    reference: Annotated[int, typer.Option(help="Steps of the guided original; 0 leaves it out.")] = 25,
    guidance: Annotated[
        float | None, typer.Option(help="Of the original. (default: what the LoRA was distilled with, else 5)")
    ] = None,
    negative: Annotated[str, typer.Option(help="What not to draw; where nothing is guided it needs --nag.")] = "",
    nag: Annotated[
        float, typer.Option(help="How far from the negative prompt, such as 3, where nothing is guided; 1 is off.")
    ] = 1.0,
    base: Annotated[str, typer.Option(help="emoji (bundled), toy, or a diffusers folder.")] = "emoji",
    scale: Annotated[float, typer.Option(help="Strength of the LoRAs.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, max=HIGHEST_SEED)] = 0,
    count: Annotated[int, typer.Option(min=1, max=100, help="Rows a prompt, seeds counting up.")] = 1,
    turn: Annotated[bool, typer.Option("--turn", help="Rows of ways, columns of prompts.")] = False,
    out: Annotated[Path, typer.Option(help="A .png file.")] = OUTPUTS / "compare.png",
) -> None:
    """Draw the same prompts in several ways, side by side."""
    check_png(out)
    wanted = _prompts(prompts or [], prompts_file)
    counts = numbers(steps, "--steps")
    methods = method or ["original", *(["bundled"] if base == "emoji" else [])]

    from hypersd.draw import png
    from hypersd.draw.compare import draw_ways, to_sheet
    from hypersd.draw.sheet import render

    if guidance is None:
        guidance = _guidance(methods, base)
    ways = [way for name in methods for way in _ways(name, counts, base, guidance)]
    if reference:
        ways = [_original("original", reference, guidance), *ways]
    ways = [replace(way, settings=_without(negative, nag, way.settings)) for way in ways]
    rows = [(prompt, seed + i) for prompt in wanted for i in range(count)]
    drawn = draw_ways(
        base,
        ways,
        [prompt for prompt, _ in rows],
        [number for _, number in rows],
        scale,
        progress=lambda way: typer.echo(f"{way.group}, {way.label}", err=True),
    )
    labels = [prompt if count == 1 else f"{prompt} (seed {number})" for prompt, number in rows]
    sheet = to_sheet(drawn, labels)
    png.write(out, render(sheet.turned() if turn else sheet))
    for item in drawn:
        typer.echo(f"{item.way.group:<28} {item.way.label:>9}  {item.seconds:.3f} s a picture")
    typer.echo(str(out))


def _prompts(given: list[str], file: Path | None) -> list[str]:
    from hypersd.draw.demo import PROMPTS
    from hypersd.draw.pipeline import check_prompt

    if file is not None:
        if not file.is_file():
            raise ValueError(f"no file of prompts at {file}")
        given = given + [line.strip() for line in file.read_text().splitlines() if line.strip()]
    for prompt in given:
        check_prompt(prompt)
    return given or list(PROMPTS)


def _original(group: str, steps: int, guidance: float, sampler: str = "ddim") -> Way:
    from hypersd.draw.compare import Way
    from hypersd.draw.pipeline import Settings, check_steps

    check_steps(steps, with_lora=False)
    return Way(group, Settings(steps=steps, guidance_scale=guidance, sampler=sampler).checked())


def _ways(method: str, counts: list[int], base: str, guidance: float) -> list[Way]:
    """`original`, `bundled` or a file, perhaps with /tcd or /lcm behind it."""
    from hypersd.draw.compare import Way
    from hypersd.draw.pipeline import made_by, settings_for

    name, sampler = _split(method)
    ending = f" ({sampler.upper()})" if sampler else ""
    path = _lora(name, base)
    if path is None:
        return [_original(f"original, fewer steps{ending}", n, guidance, sampler or "ddim") for n in counts]
    made = made_by(path)
    group = "distilled" if name == "bundled" else _called(path)
    return [Way(f"{group}{ending}", settings_for(made, n, sampler or None), path) for n in counts]


def _without(negative: str, nag: float, settings: Settings) -> Settings:
    """Away from the negative prompt: by guidance where there is any, else by NAG."""
    scale = nag if settings.guidance_scale == 1 else 1.0
    return replace(settings, negative=negative, nag_scale=scale).checked()


def _called(path: Path) -> str:
    """A file's name; of a folder, which is called `model` in every run, the run's too."""
    return "/".join(path.resolve().parts[-2:]) if path.is_dir() else path.stem


def _guidance(methods: list[str], base: str) -> float:
    """What the first of the LoRAs was distilled with."""
    from hypersd.draw.pipeline import made_by, teacher_guidance

    loras = (_lora(_split(method)[0], base) for method in methods)
    first = next((path for path in loras if path), None)
    return teacher_guidance(made_by(first) if first else None)


def _split(method: str) -> tuple[str, str]:
    """The name, and the sampler that may stand behind it."""
    from hypersd.diffusion import samplers

    name, _, sampler = method.rpartition("/")
    return (name, sampler) if name and sampler in samplers.names() else (method, "")


def _lora(name: str, base: str) -> Path | None:
    """The file of a method; None for the base alone, which is called `original`, or `none` as in other verbs."""
    return None if name == "original" else find_lora(name, base)
