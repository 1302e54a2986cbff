"""What docs/results.md says was measured on the weights that are bundled."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from hypersd import bundled, recipe
from hypersd.distill import resolve
from hypersd.evaluate.sets import weights_digest

RESULTS = Path(__file__).parents[2] / "docs" / "results"
RECIPES = Path(__file__).parents[2] / "recipes"
METHODS = sorted((RESULTS / "methods").glob("*-[0-9].json"))


@pytest.fixture(scope="module")
def base() -> str:
    return weights_digest(bundled.BASE)


def sha256(file: Path) -> dict[str, str]:
    return json.loads(file.read_text())["about"]["sha256"]


def test_the_report_is_of_the_bundled_base_and_lora(base):
    assert sha256(RESULTS / "emoji-report.json") == {"base": base, "lora": weights_digest(bundled.LORA)}


@pytest.mark.parametrize("file", METHODS, ids=lambda file: file.stem)
def test_their_commands_would_run_the_recipes_that_were_run(file):
    """In whatever words those are said today."""
    run = json.loads(file.read_text())
    words = shlex.split(run["about"]["command"])
    (path,) = RECIPES.rglob(f"{run['recipe']['name']}.yaml")
    seeds, seed = words[words.index("--seeds") + 1] if "--seeds" in words else "0", str(run["recipe"]["seed"])
    assert seed in seeds.split(",")  # one command may run several
    today = recipe.load(path, [*(word for word in words if "=" in word), f"seed={seed}"])
    assert words[words.index("--methods") + 1] == str(path.relative_to(RECIPES).with_suffix(""))
    assert resolve.in_full(today) == resolve.in_full(recipe.parse(run["recipe"]))


@pytest.mark.parametrize("file", METHODS, ids=lambda file: file.stem)
def test_methods_were_distilled_from_the_bundled_base(file, base):
    assert sha256(file)["base"] == base
