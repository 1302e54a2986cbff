"""hypersd bench: methods side by side."""

from __future__ import annotations

import shlex
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hypersd.cli.options import OUTPUTS, check_out, numbers

if TYPE_CHECKING:
    from hypersd.recipe import Recipe

bench = typer.Typer(help="Compare methods at an equal budget.", no_args_is_help=True)
RIVALS = "lcm,tcd,pcm,lightning,dmd2,tscd,hyper"


@bench.callback()
def _group() -> None:
    """Compare methods at an equal budget."""


Names = Annotated[str, typer.Option("--methods", help="Recipes, with commas between; ablations/NAME too.")]
Seeds = Annotated[str, typer.Option(help="Of training, with commas between.")]
Steps = Annotated[str, typer.Option(help="With commas between.")]
Changes = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="For every recipe, such as batch=16.")]
Recipes = Annotated[Path, typer.Option(help="The folder of the recipes.")]
Runs = Annotated[Path, typer.Option(help="Where the runs live.")]
Pictures = Annotated[int, typer.Option(min=32, help="In a set.")]
Sets = Annotated[int, typer.Option(min=1, help="Sets of pictures for each way of drawing.")]
Optional = Annotated[bool, typer.Option(help="Also ask ResNet50 and LPIPS, where they were fetched: slow.")]
Out = Annotated[Path, typer.Option(help="A JSON for each method and seed, and base.json.")]
RESULTS = Path("docs/results/methods")


@bench.command()
def methods(
    names: Names = RIVALS,
    seeds: Seeds = "0",
    budget: Annotated[
        int, typer.Option(min=1, help="UNet forward-equivalents a run: samples times passes, 3 with a gradient.")
    ] = 300_000,
    steps: Steps = "1,2,4,8",
    pictures: Pictures = 500,
    sets: Sets = 1,
    guidance: Annotated[
        float | None,
        typer.Option(help="The teacher's that rows are measured against. (default: as base.json, else the recipe's)"),
    ] = None,
    optional: Optional = False,
    changes: Changes = None,
    recipes: Recipes = Path("recipes"),
    runs: Runs = Path("runs/methods"),
    out: Out = RESULTS,
) -> None:
    """Train each recipe at one budget and measure it; what is there already is not made again."""
    counts = numbers(steps, "--steps")
    asked = _recipes(names, numbers(seeds, "--seeds"), recipes, changes)

    from rich.console import Console

    from hypersd.cli.evaluate import Bar
    from hypersd.distill import resolve
    from hypersd.distill.watch import Bars
    from hypersd.draw.pipeline import Settings, check_steps
    from hypersd.evaluate import beside
    from hypersd.evaluate.methods import Run
    from hypersd.evaluate.methods import bench as compare

    evaluate = _measured(pictures, sets, optional)
    if guidance is not None:
        guidance = Settings(guidance_scale=guidance).checked().guidance_scale
    to_make = [Run(recipe, out, runs) for recipe in asked]
    for run in to_make:
        for count in counts:
            check_steps(count, made_for=run.recipe.sampler.steps)
        if not run.file.is_file():
            with warnings.catch_warnings(action="ignore"):  # its training says what is to be said
                resolve.check(run.recipe)
    for run in to_make:
        evaluate["guidance"] = beside.guidance(out) if guidance is None else guidance
        with Bars(Console(stderr=True)) as bars, Bar() as bar:
            made = compare(run, budget, counts, bars, bar.update, **evaluate)
        typer.echo(f"{run.file}{'' if made else ' was there'}")


@bench.command()
def base(
    name: Annotated[str, typer.Option("--base", help="emoji (bundled) or a diffusers folder.")] = "emoji",
    guidance: Annotated[float | None, typer.Option(help="The teacher's. (default: 5)")] = None,
    steps: Steps = "1,2,4,8",
    pictures: Pictures = 500,
    sets: Sets = 1,
    optional: Optional = False,
    out: Out = RESULTS,
) -> None:
    """Measure anew what the base draws beside the methods, in place of base.json; trains nothing."""
    counts = numbers(steps, "--steps")

    from hypersd.cli.evaluate import Bar
    from hypersd.evaluate import beside, evaluation

    evaluate = _measured(pictures, sets, optional)
    with Bar() as bar:
        found = evaluation.run(name, None, steps=counts, guidance=guidance, progress=bar.update, **evaluate)
    beside.keep(out, found, anew=True)
    typer.echo(str(out / beside.NAME))


@bench.command()
def sheet(
    prompts: Annotated[list[str] | None, typer.Argument(help="(default: three of the demo's)")] = None,
    names: Names = RIVALS,
    seed: Annotated[int, typer.Option(help="Of training.")] = 0,
    steps: Steps = "1,2,4,8",
    guidance: Annotated[float, typer.Option(help="Of the teacher.")] = 5.0,
    recipes: Recipes = Path("recipes"),
    runs: Runs = Path("runs/methods"),
    out: Annotated[Path, typer.Option(help="A .webp file.")] = OUTPUTS / "methods.webp",
) -> None:
    """Draw what `hypersd bench methods` trained: methods as rows, the same prompts in each number of steps."""
    check_out(out, ".webp")
    counts = numbers(steps, "--steps")
    asked = _recipes(names, [seed], recipes)

    from hypersd.draw import webp
    from hypersd.draw.demo import PROMPTS
    from hypersd.draw.pipeline import check_prompt, check_steps
    from hypersd.draw.sheet import render
    from hypersd.evaluate.gallery import gallery
    from hypersd.evaluate.methods import Run

    for recipe in asked:
        for count in counts:
            check_steps(count, made_for=recipe.sampler.steps)
    for prompt in prompts or ():
        check_prompt(prompt)
    drawn = gallery(
        [Run(recipe, out.parent, runs) for recipe in asked],
        prompts or PROMPTS[:3],
        counts,
        guidance,
        progress=lambda way: typer.echo(f"{way.group}, {way.label}", err=True),
    )
    webp.write(out, render(drawn))
    typer.echo(str(out))


def _measured(pictures: int, sets: int, optional: bool) -> dict[str, Any]:
    command = shlex.join(["hypersd", *sys.argv[1:]])
    return {"pictures": pictures, "seeds": sets, "optional": optional, "command": command}


def _recipes(names: str, seeds: list[int], folder: Path, changes: list[str] | None = None) -> list[Recipe]:
    from hypersd import recipe as reader

    if any(change.partition("=")[0] == "seed" for change in changes or ()):
        raise ValueError("seed= is --seeds here")
    return [
        reader.load(folder / f"{name}.yaml", [*(changes or []), f"seed={seed}"])
        for name in names.split(",")
        for seed in seeds
    ]
