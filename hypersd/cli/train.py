"""hypersd train: a recipe becomes a LoRA, or a network of its own in a diffusers folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hypersd.cli.errors import INTERRUPTED, say

if TYPE_CHECKING:
    from hypersd.recipe import Recipe


def train(
    recipe: Annotated[Path, typer.Argument(help="A YAML file, such as recipes/emoji.yaml.")],
    changes: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Such as batch=16 stages.0.iterations=50"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where the run lives. (default: runs/NAME)")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's checkpoint.")] = False,
) -> None:
    """Distil a base into a few-step LoRA or network; Ctrl-C stops it, --resume goes on."""
    from hypersd import recipe as recipes

    read = recipes.load(recipe, changes or [])

    from rich.console import Console

    from hypersd.distill.checkpoint import NAME
    from hypersd.distill.train import train as run
    from hypersd.distill.watch import Bars

    folder = out or Path("runs") / read.name
    try:
        with Bars(Console(stderr=True)) as bars:
            path = run(read, folder, resume, bars)
    except KeyboardInterrupt:
        kept = (folder / NAME).is_file()
        said = "with --resume goes on from the last checkpoint" if kept else "begins anew: there is no checkpoint yet"
        say(f"stopped; the same command {said}")
        raise typer.Exit(INTERRUPTED) from None
    typer.echo(str(_folder(read, path) if read.student == "full" else path))


def _folder(recipe: Recipe, network: Path) -> Path:
    """The network's own diffusers folder; for the toy, which has none, the network."""
    from hypersd import bases
    from hypersd.export import merged

    if recipe.base == "toy" or os.environ.get("RANK", "0") != "0":  # one process writes for all
        return network
    return merged.write(network, bases.folder(recipe.base), network.with_name("model"))
