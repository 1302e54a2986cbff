"""The command `hypersd`: the verbs, one a file. Heavy imports wait until a verb runs."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from hypersd import __version__
from hypersd.cli.bench import bench
from hypersd.cli.compare import compare
from hypersd.cli.demo import demo
from hypersd.cli.errors import FAILURE, Verbs, say, wants_traceback
from hypersd.cli.evaluate import evaluate
from hypersd.cli.merge import merge
from hypersd.cli.sample import sample
from hypersd.cli.train import train

app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for verb in (sample, compare, train, merge, evaluate, demo):
    app.command()(verb)
app.add_typer(bench, name="bench")


def _version(asked: bool) -> bool:
    if asked:
        typer.echo(f"hypersd {__version__}")
        raise typer.Exit
    return asked


@app.callback()
def top(
    version: Annotated[
        bool, typer.Option("--version", help="Say which version this is.", callback=_version, is_eager=True)
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", envvar="HYPERSD_DEBUG", help="Show the whole traceback of an error.")
    ] = False,
) -> None:
    """Draw with Stable Diffusion in 1 to 8 steps, and train the LoRAs that make it possible."""


def main() -> None:
    try:
        app(prog_name="hypersd")
    except Exception as error:
        if wants_traceback(sys.argv):
            raise
        say(f"{type(error).__name__}: {error} (a bug: `hypersd --debug` shows where)", "error")
        sys.exit(FAILURE)
