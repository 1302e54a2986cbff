"""hypersd demo: what `make demo` runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hypersd.cli.options import HIGHEST_SEED, OUTPUTS, check_out, find_lora

if TYPE_CHECKING:
    from hypersd.draw.compare import Way
    from hypersd.draw.demo import Judge


def demo(
    prompt: Annotated[str | None, typer.Option(help="Your own, with four seeds. (default: eight prompts)")] = None,
    seed: Annotated[int, typer.Option(min=0, max=HIGHEST_SEED)] = 0,
    base: Annotated[str, typer.Option(help="emoji (bundled) or a diffusers folder.")] = "emoji",
    lora: Annotated[str, typer.Option(help="bundled or a .safetensors file.")] = "bundled",
    out: Annotated[Path, typer.Option(help="Folder for demo.png and demo.json.")] = OUTPUTS,
    strip: Annotated[
        Path | None, typer.Option(help="Also write the README's picture strip here: a .webp file.")
    ] = None,
) -> None:
    """Draw with the original and with the distilled model, in few steps and in many, side by side."""
    began = time.perf_counter()
    file = find_lora(lora, base)
    if file is None:
        raise ValueError("the demo compares a base with a LoRA: give a LoRA file or `bundled`")

    from hypersd.atomic import write_json
    from hypersd.draw import demo as parts
    from hypersd.draw import png, webp
    from hypersd.draw.compare import draw_ways, to_sheet
    from hypersd.draw.pipeline import check_prompt
    from hypersd.draw.sheet import render

    if prompt is not None:
        check_prompt(prompt)
    if strip:
        check_out(strip, ".webp")
    prompts, seeds = parts.rows(prompt, seed)
    drawn = draw_ways(base, parts.ways(file), prompts, seeds, progress=_progress)
    labels = prompts if prompt is None else [f"seed {number}: {prompt}" for number in seeds]
    records = parts.metrics(drawn, prompts, _judge())
    png.write(out / "demo.png", render(to_sheet(drawn, labels, parts.note(drawn))))
    write_json(out / "demo.json", {"prompts": prompts, "seeds": seeds, "ways": records})
    if strip:
        chosen = [d for key in parts.STRIP for d in drawn if (d.way.group, d.way.settings.steps) == key]
        webp.write(strip, render(to_sheet(chosen, labels).turned()))
    _show(records, out, time.perf_counter() - began)


def _progress(way: Way) -> None:
    typer.echo(f"drawing: {way.group}, {way.label}", err=True)


def _judge() -> Judge | None:
    """Judge B, which nothing is trained against; None where it or what it needs is not installed."""
    from hypersd.cli.errors import say, words
    from hypersd.judges.emoji import load_judge
    from hypersd.judges.networks import imagenet

    try:
        imagenet.backbone("cpu")  # what the judge looks through is loaded at its first look, too late to do without
        return load_judge("b")
    except (ImportError, OSError) as error:
        say(f"no match scores: {words(error)}", "notice")
        return None


def _show(records: list[dict[str, Any]], out: Path, seconds: float) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("", "steps", "evaluations", "s a picture", "match"):
        table.add_column(heading, justify="left" if heading == "" else "right")
    for record in records:
        score = f"{record['match']:.2f}" if "match" in record else "-"
        counts = (str(record["steps"]), str(record["network_evaluations"]))
        table.add_row(record["way"], *counts, f"{record['seconds_per_image']:.3f}", score)
    console = Console()
    console.print()
    console.print(table)
    console.print(
        "\nmatch: how well pictures fit their prompts, by a judge that trains nothing:"
        "\n1 is the original in 25 steps, 0 a picture of something else."
        "\nA rough number from few pictures; `hypersd evaluate` measures thousands.",
        style="dim",
    )
    console.print(f"\nLook at  {out / 'demo.png'}   (numbers: {out / 'demo.json'}; {seconds:.0f} s)", soft_wrap=True)
    console.print("\nNext:", 'PROMPT="a man pilot, flat style" make demo', sep="\n  ", highlight=False)
    console.print('  .venv/bin/hypersd sample "a woman judge with dark skin, 3D style" --steps 2', highlight=False)
    console.print("  .venv/bin/hypersd train recipes/emoji.yaml", highlight=False)
