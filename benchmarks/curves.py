"""The picture of docs/curves.md: how each loss goes, from the golden runs on Gaussian data.

    pip install matplotlib; python -m benchmarks.curves

Reads `tests/golden/`, which `tests/distill/test_golden.py` and `test_rivals.py` hold every change against.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"
OUT = ROOT / "docs" / "images" / "curves.webp"
WINDOW = {"toy": 50}
INK, MUTED, STAGE = "#1a1a1a", "#6b6b6b", "#e4e4e4"
PANELS = (
    ("toy", "loss", "consistency, TSCD: 8, 4, 2, 1 segments"),
    ("lcm", "loss", "consistency, one segment (LCM)"),
    ("cfg", "loss", "consistency without guidance (cfg)"),
    ("regression", "loss", "regression"),
    ("hyper", "adversarial", "adversarial, student (weight .02 to .2)"),
    ("hyper", "adversarial, opponent", "adversarial, heads (2 log 2 is chance)"),
    ("lightning", "adversarial", "adversarial in pairs (Lightning), student"),
    ("lightning", "adversarial, opponent", "adversarial in pairs, heads"),
    ("dmd2", "score", "score distillation, student (DMD2)"),
    ("dmd2", "score, opponent", "score distillation, fake score"),
    ("dmd2", "adversarial, opponent", "adversarial beside it, heads"),
    ("tscd-score", "score", "score distillation after TSCD"),
    ("feedback", "feedback", "feedback: what a judge misses, on top"),
    ("feedback", "rollout", "rollout beside it: neither reaches 0"),
    ("one-step", "rollout", "rollout beside score, fading"),
    ("perceptual", "loss", "perceptual: never 0"),
)


def courses() -> dict[str, dict[str, list[list[float]]]]:
    """Method -> term -> stage -> means over windows."""
    found = json.loads((GOLDEN / "methods.json").read_text())
    return {**found, "toy": {"loss": list(json.loads((GOLDEN / "toy.json").read_text()).values())}}


def draw(axes: Any, stages: Sequence[Sequence[float]], window: int, title: str) -> None:
    values = [value for stage in stages for value in stage]
    at = [(index + 0.5) * window for index in range(len(values))]
    axes.plot(at, values, color=INK, linewidth=1.4)
    ends = [sum(map(len, stages[: index + 1])) * window for index in range(len(stages) - 1)]
    for end in ends:
        axes.axvline(end, color=STAGE, zorder=0)
    if min(values) > 0 and max(values) > 20 * min(values):
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter("")
    else:
        axes.ticklabel_format(useOffset=False)
    axes.set_xlim(left=0)
    axes.set_title(title, fontsize=8, color=INK, loc="left")
    axes.tick_params(labelsize=7, colors=MUTED)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(STAGE)


def main() -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    found = courses()
    figure, grid = pyplot.subplots(4, 4, figsize=(11.4, 7.6), layout="constrained")
    for axes, (method, term, title) in zip(grid.flat, PANELS, strict=True):
        draw(axes, found[method][term], WINDOW.get(method, 25), title)
    for axes in grid[-1]:
        axes.set_xlabel("iteration", fontsize=7.5, color=MUTED)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=100)
    Image.open(buffer).convert("L").quantize(8).convert("L").save(OUT, lossless=True, quality=100, method=6)
    print(OUT.relative_to(ROOT))


if __name__ == "__main__":
    main()
