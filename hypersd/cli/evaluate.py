"""hypersd evaluate: a LoRA against its base's own many-step pictures, in numbers."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from hypersd.cli.options import find_lora, numbers


def evaluate(
    base: Annotated[str, typer.Option(help="emoji (bundled) or a diffusers folder.")] = "emoji",
    lora: Annotated[
        str | None, typer.Option(help="A .safetensors file, bundled, or none. (default: bundled with emoji)")
    ] = None,
    scale: Annotated[float, typer.Option(help="Strength of the LoRA.")] = 1.0,
    split: Annotated[
        str, typer.Option(help="Held-out captions: develop, or report (once a released LoRA).")
    ] = "develop",
    quick: Annotated[bool, typer.Option("--quick", help="Few pictures: a look, not a result.")] = False,
    pictures: Annotated[int | None, typer.Option(min=2, help="In a set. (default: 2000)")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Sets of seeds. (default: 3)")] = None,
    steps: Annotated[str, typer.Option(help="With commas between.")] = "1,2,4,8",
    guidance: Annotated[
        float | None, typer.Option(help="The original's. (default: what the LoRA was distilled with)")
    ] = None,
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    optional: Annotated[bool, typer.Option(help="Also ask ResNet50 and LPIPS, where they were fetched.")] = True,
    out: Annotated[
        Path | None, typer.Option(help="JSON, such as docs/results/emoji.json; a table is printed anyway.")
    ] = None,
) -> None:
    """Measure a LoRA against the base that it was distilled from; docs/evaluate.md says what numbers mean."""
    counts, file = numbers(steps, "--steps"), find_lora(lora, base)

    from hypersd.evaluate import evaluation, report

    few = (evaluation.QUICK_PICTURES, evaluation.QUICK_SEEDS)
    many = (evaluation.FULL_PICTURES, evaluation.FULL_SEEDS)
    usual = few if quick else many
    with Bar() as bar:
        found = evaluation.run(
            base=base,
            lora=file,
            out=out,
            split=split,
            pictures=pictures or usual[0],
            seeds=seeds or usual[1],
            steps=counts,
            guidance=guidance,
            scale=scale,
            precision=precision,
            optional=optional,
            progress=bar.update,
            command=shlex.join(["hypersd", *sys.argv[1:]]),
        )
    from rich.console import Console

    console = Console()
    console.print(report.table(found))
    if found.yardsticks:
        console.print(report.verdicts(found))
    if out is not None:
        typer.echo(str(out))


class Bar:
    """How far an evaluation is, on stderr, shown from its first sign of life."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        self.progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self.task = self.progress.add_task("", total=1.0)
        self.started = False

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *error: object) -> None:
        if self.started:
            self.progress.stop()

    def update(self, label: str, share: float) -> None:
        if not self.started:
            self.progress.start()
            self.started = True
        self.progress.update(self.task, description=label, completed=share)
