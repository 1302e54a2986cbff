"""The recipes: on Gaussian data each reaches what can be computed for it, its losses by the course they always took.

`tests/golden/methods.json` keeps the course of each loss; rewrite it with `python -m tests.distill.test_rivals`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from hypersd import bases, recipe
from hypersd.distill.results import NAMES
from hypersd.distill.train import train
from hypersd.draw.pipeline import Drawer, Settings
from hypersd.lora import files, network
from hypersd.recipe import Recipe
from tests.diffusion import fixed_point
from tests.distill.bold import BOLD, FAINT, LIGHT, TWIN
from tests.distill.runs import curves
from tests.pictures import write_latents
from tests.shapes import unchecked

RECIPES = Path(__file__).parents[2] / "recipes"
TEACHER, DATA = 0.4714, 0.5
"""Standard deviations: of what 40 teacher's steps draw, and of the data."""
TOY = ("base=toy", "data={kind: gaussian}", "lora={rank: 1, dtype: fp32}", "teacher.guidance=[1, 1]", "precision=fp32")
FAST = ("batch=16", "optimiser.lr=0.02", "optimiser.max_norm=1.0e+9")
JUMPS = (*FAST, "draw.visited_share=0")
TWO = "{lr: 0.01, betas: [0.5, 0.99], decay: cosine}"
SLOW = "{lr: 0.006, betas: [0.5, 0.99], decay: cosine}"
"""For a student with an opponent."""
FAKE = "updates: 3, fake: {lr: 0.05, betas: [0.9, 0.99], decay: cosine}"
HEADS = "width: 16, heads: {lr: 0.005, betas: [0, 0.99]}"
ONE_STEP = "draw: {end: visited, visited_share: 1.0, samplers: [ddim], steps: [1]}"
HELD = "{distance: mse, weight: [0.25, 0.0]}"
FADING = f"consistency: {HELD}"
PAIR = (
    "adversarial: {of: jump, real: target, pair: true, weight: 1, span: [0, 0.1], width: 16, "
    "heads: {lr: 0.02, betas: [0, 0.99]}}"
)
"""With little noise: on one channel and with few heads, more hides by how much a jump misses."""
EIGHT = "stages=[{segments: 8, iterations: 200}]"
PATHS = ("data={kind: paths, pool: 32}", "teacher.substeps=5")
LIKED = f"feedback: {{weight: 4, judges: {{{BOLD}: {{target: 0.3}}}}, watch: {{{FAINT}: {{}}}}}}"
CONTENT = LIKED.replace("0.3", "0.2")
"""With data as it is, on which that judge's mean is 0.25."""


def iterations(*each: int) -> list[str]:
    return [f"stages.{index}.iterations={number}" for index, number in enumerate(each)]


def override(index: int, losses: str, draw: str = ONE_STEP, optimiser: str = TWO) -> str:
    """Of a stage with an opponent or a judge."""
    return f"stages.{index}.override={{{draw}, losses: {{{losses}}}, optimiser: {optimiser}}}"


def halve(index: int) -> str:
    draw = f"draw.points: {8 >> index}, teacher: {{follow: previous, substeps: 2}}"
    return override(index, PAIR, draw, SLOW)


def pleased(target: float, weight: float, kept: float = TEACHER) -> float:
    """The c at which |c ε − kept ε| and the hinge on the mean square of c ε weigh least together."""
    eps = torch.randn(2048, 64, generator=torch.Generator().manual_seed(0))
    c = torch.linspace(kept, 1, 1001)
    missed = [F.relu(target - (x * eps).square().mean(1)).mean() for x in c]
    return float(c[((c - kept) * eps.abs().mean() + weight * torch.stack(missed)).argmin()])


def from_874(std: float) -> float:
    """What TSCD's last stage asks of a jump from 999 on 8 points: to land where its own from 874 does."""
    own = fixed_point.coefficients(std, 1, "uniform", points=8)[874]
    return float(fixed_point.factor(999, 874, fixed_point.teacher(std, 999)) * fixed_point.factor(874, -1, own))


def seen(t: int) -> float:
    """The factor of x_t = α x0 + σ ε, α x0 of the data, that says best where x0 is above 0."""
    x0 = DATA * torch.randn(2**17, generator=torch.Generator().manual_seed(0))
    x_t = fixed_point.ALPHA[t] * x0 + fixed_point.SIGMA[t] * torch.randn(
        2**17, generator=torch.Generator().manual_seed(1)
    )
    factors = torch.linspace(0.5, 2, 151)
    lost = [F.binary_cross_entropy_with_logits(x * x_t.float(), (x0 > 0).float()) for x in factors]
    return float(factors[torch.stack(lost).argmin()])


RUNS = {
    "lcm": (1, fixed_point.teacher_gain(0.5, 20), 0.05, [*JUMPS, "draw.points=20", *iterations(500)]),
    "tcd": (
        *(1, fixed_point.gain(0.5, 1, "uniform", 20), 0.05),
        [*JUMPS, "draw.points=20", "losses.consistency.distance=mse", *iterations(600)],
    ),
    "pcm": (4, TEACHER, 0.03, [*JUMPS, "losses.adversarial.width=16", *iterations(250)]),
    "lightning": (1, TEACHER, 0.1, [*JUMPS, *iterations(75, 150, 150, 150), *map(halve, (1, 2, 3))]),
    "dmd2": (
        *(1, DATA, 0.05),
        [
            *("batch=12", "draw.steps=[1]", f"optimiser={SLOW}"),
            *(f"losses={{score: {{{FAKE}}}, adversarial: {{weight: 0.1, {HEADS}}}}}", *iterations(150)),
        ],
    ),
    "hyper": (
        *(1, DATA, 0.15),
        [
            *(*JUMPS, *iterations(50, 50, 50, 75, 125), override(4, f"score: {{{FAKE}}}, {FADING}")),
            f"losses.adversarial={{of: jump, real: target, weight: 0.02, {HEADS}}}",
        ],
    ),
    **{
        name: (
            *(8, fixed_point.gain(0.5, 8, "uniform"), 0.03),
            [*JUMPS, "losses.adversarial.width=16", EIGHT, "losses.adversarial.heads.lr=0.005"],
        )
        for name in ("tscd-adversarial-r1", "tscd-adversarial-pool", "tscd-adversarial-pair")
    },
    "tscd-score": (
        *(1, DATA, 0.15),
        [
            *(*JUMPS, "draw.points=8", "losses.consistency.distance=mse", *iterations(50, 75, 150, 250, 125)),
            override(4, f"score: {{{FAKE}}}, {FADING}"),
        ],
    ),
    "tscd-score-jumps": (
        *(1, DATA, 0.15),
        [
            *(*JUMPS, *iterations(*[1] * 4, 125), override(4, f"score: {{{FAKE}}}, {FADING}")),
            "stages.4.override.losses.score.simulation=false",
        ],
    ),
    "tscd-score-average": (
        *(1, DATA, 0.15),
        [
            *(*JUMPS, *iterations(*[1] * 4, 150), override(4, f"score: {{{FAKE}}}, {FADING}")),
            "stages.4.override.average=0.8",
        ],
    ),
    "tscd-trajectory": (
        *(1, DATA, 0.15),
        [
            *JUMPS,
            "draw.points=8",
            *iterations(*[1] * 4, 100),
            override(4, f"score: {{trajectory: true, {FAKE}}}, {FADING}"),
        ],
    ),
    "tcd-score": (1, DATA, 0.15, [*JUMPS, *iterations(*[1] * 4, 125), override(4, f"score: {{{FAKE}}}, {FADING}")]),
    "tscd-feedback": (
        *(1, pleased(target=0.3, weight=4.0, kept=from_874(0.5)), 0.03),
        [
            *JUMPS,
            "draw.points=8",
            *iterations(*[1] * 4, 150),
            override(4, f"consistency: {{distance: huber}}, {LIKED}"),
        ],
    ),
    "hyper-feedback": (
        *(1, DATA, 0.15),
        [
            *(*JUMPS, *iterations(*[1] * 4, 125), override(4, f"score: {{{FAKE}}}, {FADING}, {CONTENT}")),
            f"losses.adversarial={{of: jump, real: target, weight: 0.02, {HEADS}}}",
        ],
    ),
    "drawings": (1, TEACHER, 0.02, [*PATHS, *FAST, "batch=8", "stages.0.override={}", *iterations(25, 100)]),
    "drawings-score": (
        *(1, DATA, 0.03),
        [
            *(*PATHS, *FAST, "stages.0.override={}", *iterations(1, 1, 100)),
            override(2, f"score: {{trajectory: true, {FAKE}}}, rollout: {HELD}", "draw.steps: [1]"),
        ],
    ),
    "drawings-sharp": (
        *(1, DATA, 0.08),
        [
            *(*PATHS, *FAST, "stages.0.override={}", *iterations(25, 25, 100)),
            override(2, f"score: {{{FAKE}}}, rollout: {HELD}", "draw.steps: [1]"),
        ],
    ),
    "drawings-mild": (
        *(1, TEACHER, 0.02),
        [*PATHS, *FAST, "data.one_step_guidance=1", "batch=8", "stages.0.override={}", *iterations(25, 100)],
    ),
    "drawings-likeness": (
        *(1, TEACHER, 0.02),
        [
            *(*PATHS, *FAST, "batch=8", "stages.0.override={}", *iterations(25, 50, 50)),
            f"stages.2.override.losses.likeness.name={TWIN}",
        ],
    ),
    "drawings-details": (
        *(1, pleased(target=0.3, weight=4.0), 0.02),
        [
            *(*PATHS, *FAST, "stages.0.override={}", *iterations(1, 1, 150)),
            override(2, f"rollout: {{}}, {LIKED}", "draw.steps: [1]"),
        ],
    ),
    "drawings-coded": (
        *(2, TEACHER, 0.02),
        [*PATHS, *FAST, "batch=8", "stages.0.override={}", "sampler.step_code=3", *iterations(25, 100)],
    ),
    "emoji": (
        *(1, TEACHER, 0.02),
        [*PATHS, *FAST, "batch=8", "stages.0.override={}", *iterations(25, 25, 25, 50, 50, 25, 25, 25)],
    ),
    "emoji-score": (
        *(1, DATA, 0.03),
        [
            *(*PATHS, *FAST, "stages.0.iterations=100"),
            override(0, f"score: {{trajectory: true, {FAKE}}}, rollout: {HELD}", "draw.steps: [1]"),
        ],
    ),
    "emoji-likeness": (
        *(1, DATA, 0.03),
        [
            *(*PATHS, *FAST, "stages.0.iterations=100"),
            override(
                0,
                f"score: {{trajectory: true, {FAKE}}}, likeness: {{name: {TWIN}, weight: [0.25, 0.0]}}",
                "draw.steps: [1]",
            ),
        ],
    ),
    "cfg": (
        *(4, fixed_point.gain(0.5, 4, "uniform"), 0.03),
        [*JUMPS, "draw.end=uniform", *iterations(50, 600)],
    ),
    "one-step": (
        *(1, DATA, 0.07),
        [
            *(*PATHS, "batch=12", f"optimiser={SLOW}"),
            *(f"losses.score={{{FAKE}}}", *iterations(150)),
        ],
    ),
    "feedback": (
        *(1, pleased(target=0.3, weight=4.0), 0.02),
        [
            *(*PATHS, "batch=16", "draw.steps=[1]", f"optimiser={TWO}", *iterations(150)),
            f"losses={{rollout: {{}}, {LIKED}}}",
        ],
    ),
    "emoji-details": (
        *(1, pleased(target=0.3, weight=4.0), 0.02),
        [
            *(*PATHS, "batch=16", "draw.steps=[1]", f"optimiser={TWO}", *iterations(150)),
            f"losses={{rollout: {{}}, likeness: {{name: {TWIN}, weight: [0.25, 0.0]}}, {LIKED}}}",
        ],
    ),
    "regression": (
        *(1, TEACHER, 0.02),
        [*PATHS, *FAST, "draw.steps=[1]", "stages=[{segments: 1, iterations: 100}]", "losses={regression: {}}"],
    ),
    "tscd-perceptual": (
        *(1, seen(400), 0.1),
        [
            *(*FAST, "sampler.one_step=400", "data={kind: latents, path: FOLDER/latents.safetensors}"),
            *iterations(*[25] * 4, 100),
            override(4, f"perceptual: {{name: {LIGHT}}}", optimiser="{lr: 0.05, decay: cosine}"),
        ],
    ),
    "perceptual": (
        *(1, seen(400), 0.1),
        [
            *("batch=16", "draw.steps=[1]", "sampler.one_step=400"),
            "data={kind: latents, path: FOLDER/latents.safetensors}",
            *(f"losses={{perceptual: {{name: {LIGHT}}}}}", "optimiser={lr: 0.05, decay: cosine}", *iterations(100)),
        ],
    ),
}
"""Of a recipe: a number of steps, the standard deviation of what it then draws, how near it comes, what is changed."""
FRAMES = {"regression": "emoji"}
"""A loss that no recipe here has, in one that could have it."""
ALIKE = {
    "tscd": ("tscd-score", 4, 4),
    "tscd-adversarial": ("hyper", 4, 4),
    "tscd-score-jumps": ("tscd-score", 4, 4),
    "tscd-score-average": ("tscd-score", 4, 4),
    "tscd-trajectory": ("tscd-score", 4, 4),
    "tscd-feedback": ("tscd-score", 4, 4),
    "tcd-score": ("tcd", 4, 1),
    "hyper-feedback": ("hyper", 4, 4),
    "drawings-score": ("drawings", 2, 2),
    "drawings-details": ("drawings", 2, 2),
    "emoji-score": ("drawings", 0, 2),
}
"""Recipes whose first stages are another's: those are trained once, and only what is then left of it is run here."""
GOLDEN = Path(__file__).parents[1] / "golden" / "methods.json"
WINDOW = 25
LOOSE = {"hyper": 2, "hyper-feedback": 2}
"""How much larger or smaller the whole of a term may be, where rounding is amplified most."""


def load(name: str, changes: Sequence[str] = ()) -> Recipe:
    (path,) = RECIPES.rglob(f"{FRAMES.get(name, name)}.yaml")
    return recipe.load(path, changes)


def train_all(folder: Path) -> dict[str, Path]:
    """Each recipe's result."""
    found: dict[str, Path] = {}
    write_latents(folder / "latents.safetensors", DATA)
    for name, (*_, changes) in RUNS.items():
        made = load(name, [change.replace("FOLDER", str(folder)) for change in (*TOY, *changes)])
        if name in ALIKE:
            other, mine, theirs = ALIKE[name]
            values = made.model_dump(mode="json")
            values["stages"] = values["stages"][mine:]
            values["lora"]["start"] = str(stage(found[other].parent, theirs))
            made = recipe.parse(values)
        found[name] = train(made, folder / name)
    return found


def stage(folder: Path, number: int) -> Path:
    """The LoRA of a run's stage, the first being 1."""
    (found,) = folder.glob(f"stage{number}-*segments.safetensors")
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rivals")
    with unchecked():
        return train_all(folder)


def spread(file: Path, steps: int) -> float:
    """Standard deviation of what a LoRA draws, or a network of its own."""
    base = bases.load("toy", "cpu")
    if file.name != NAMES["full"]:
        drawer, settings = Drawer(base, file), Settings(steps)
    else:
        base.unet.load_state_dict(load_file(file))
        sampler = network.read_header(file).sampler
        drawer, settings = Drawer(base), Settings(steps, sampler["name"], {"one_step": sampler["one_step"]})
    return float(drawer.latents([""] * 64, range(64), settings).std())


@pytest.mark.parametrize("name", RUNS)
def test_a_method_reaches_its_closed_form(trained, name):
    steps, expected, tolerance, _ = RUNS[name]
    assert spread(trained[name], steps) == pytest.approx(expected, rel=tolerance)


def test_score_distillation_lifts_the_single_step(trained):
    """Hyper-SD §3.3: segments keep the path, and leave one step, then begun at t = 999, far from the data."""
    before = stage(trained["tscd-score"].parent, 4)
    assert "one_step" not in files.read(before).sampler
    assert spread(before, 1) < 0.6 * DATA < spread(trained["tscd-score"], 1)


@pytest.mark.parametrize(("number", "k"), [(1, 8), (2, 4), (3, 2), (4, 1)])
def test_tscd_reaches_its_fixed_point_in_every_stage(trained, number, k):
    expected = fixed_point.gain(0.5, k, "uniform", points=8)
    assert spread(stage(trained["tscd-score"].parent, number), k) == pytest.approx(expected, rel=0.07)


@pytest.mark.parametrize("name", [name for name, (_, mine, _) in ALIKE.items() if mine])
def test_stages_that_are_trained_once_for_two_recipes_are_the_same_in_both(name):
    """But for the steps of samplers, which those jumps do not visit here."""
    other, mine, theirs = ALIKE[name]
    own, others = load(name), load(other)
    for index in range(mine):
        where = min(index, theirs - 1)
        assert own.stages[index].segments == others.stages[where].segments
        assert settings(own.at(index)) == settings(others.at(where))


def settings(made: Recipe) -> dict:
    draw = made.draw.model_dump(exclude={"samplers", "steps"})
    alike = {"teacher", "losses", "optimiser", "batch", "ema", "average", "data"}
    return {"draw": draw, **made.model_dump(include=alike)}


@pytest.mark.parametrize("name", RUNS)
def test_losses_take_their_golden_course(trained, name):
    """The same where it begins; later another processor's rounding grows (ATEN_CPU_CAPABILITY=default shows it)."""
    expected, got = json.loads(GOLDEN.read_text())[name], curves(trained[name].parent, WINDOW)
    most = LOOSE.get(name, 1.15)
    assert got.keys() == expected.keys()
    for term, stages in expected.items():
        assert [len(windows) for windows in got[term]] == [len(windows) for windows in stages]
        if name not in ALIKE and len(stages) == len(got[next(iter(got))]):  # else it begins after other training
            assert got[term][0][0] == pytest.approx(stages[0][0], rel=0.05)
        assert 1 / most < sum(map(sum, got[term])) / sum(map(sum, stages)) < most


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        courses = {name: curves(result.parent, WINDOW) for name, result in train_all(Path(folder)).items()}
        GOLDEN.write_text(json.dumps(courses) + "\n")
