"""hypersd bench: methods side by side."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from hypersd.cli.options import numbers

bench = typer.Typer(help="Compare methods at an equal budget.", no_args_is_help=True)
RIVALS = "lcm,tcd,pcm,lightning,dmd2,tscd,hyper"


@bench.callback()
def _group() -> None:
    """Compare methods at an equal budget."""


@bench.command()
def methods(
    names: Annotated[str, typer.Option("--methods", help="Recipes, with commas between.")] = RIVALS,
    seeds: Annotated[str, typer.Option(help="Of training, with commas between.")] = "0",
    budget: Annotated[
        int, typer.Option(min=1, help="UNet forward-equivalents a run: samples times passes, 3 with a gradient.")
    ] = 300_000,
    steps: Annotated[str, typer.Option(help="With commas between.")] = "1,2,4,8",
    pictures: Annotated[int, typer.Option(min=32, help="In a set.")] = 500,
    sets: Annotated[int, typer.Option(min=1, help="Sets of pictures for each run.")] = 1,
    changes: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="For every recipe, such as batch=16.")
    ] = None,
    recipes: Annotated[Path, typer.Option(help="The folder of the recipes.")] = Path("recipes"),
    runs: Annotated[Path, typer.Option(help="Where the runs live.")] = Path("runs/methods"),
    out: Annotated[Path, typer.Option(help="A JSON for each method and seed.")] = Path("docs/results/methods"),
) -> None:
    """Train each recipe at one budget and measure it; what is there already is not made again."""
    from hypersd import recipe as reader

    counts = numbers(steps, "--steps")
    asked = [
        reader.load(recipes / f"{name}.yaml", [*(changes or []), f"seed={seed}"])
        for name in names.split(",")
        for seed in numbers(seeds, "--seeds")
    ]

    from rich.console import Console

    from hypersd.cli.evaluate import Bar
    from hypersd.distill.watch import Bars
    from hypersd.draw.pipeline import check_steps
    from hypersd.evaluate.methods import Run
    from hypersd.evaluate.methods import bench as compare

    for count in counts:
        check_steps(count)
    evaluate: dict[str, Any] = {"pictures": pictures, "seeds": sets, "optional": False}
    evaluate["command"] = shlex.join(["hypersd", *sys.argv[1:]])
    for recipe in asked:
        run = Run(recipe, out, runs)
        with Bars(Console(stderr=True)) as bars, Bar() as bar:
            made = compare(run, budget, counts, bars, bar.update, **evaluate)
        typer.echo(f"{run.file}{'' if made else ' was there'}")
