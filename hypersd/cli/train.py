"""hypersd train: a recipe becomes a LoRA."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hypersd.cli.errors import INTERRUPTED, say


def train(
    recipe: Annotated[Path, typer.Argument(help="A YAML file, such as recipes/emoji.yaml.")],
    changes: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Such as batch=16 stages.0.iterations=50"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where the run lives. (default: runs/NAME)")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's checkpoint.")] = False,
) -> None:
    """Distil a base into a few-step LoRA; Ctrl-C stops it, --resume goes on."""
    from hypersd import recipe as recipes

    read = recipes.load(recipe, changes or [])

    from rich.console import Console

    from hypersd.distill.train import train as run
    from hypersd.distill.watch import Bars

    try:
        with Bars(Console(stderr=True)) as bars:
            path = run(read, out or Path("runs") / read.name, resume, bars)
    except KeyboardInterrupt:
        say("stopped; the same command with --resume goes on from the last checkpoint")
        raise typer.Exit(INTERRUPTED) from None
    typer.echo(str(path))
