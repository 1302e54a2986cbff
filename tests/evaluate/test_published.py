"""What docs/results.md says was measured on the weights that are bundled."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hypersd import bundled
from hypersd.evaluate.sets import weights_digest

RESULTS = Path(__file__).parents[2] / "docs" / "results"
METHODS = sorted((RESULTS / "methods").glob("*-[0-9].json"))


@pytest.fixture(scope="module")
def base() -> str:
    return weights_digest(bundled.BASE)


def sha256(file: Path) -> dict[str, str]:
    return json.loads(file.read_text())["about"]["sha256"]


def test_the_report_is_of_the_bundled_base_and_lora(base):
    assert sha256(RESULTS / "emoji-report.json") == {"base": base, "lora": weights_digest(bundled.LORA)}


@pytest.mark.parametrize("file", METHODS, ids=lambda file: file.stem)
def test_methods_were_distilled_from_the_bundled_base(file, base):
    assert sha256(file)["base"] == base
