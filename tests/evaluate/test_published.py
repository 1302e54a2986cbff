"""What docs/results.md says was measured on the weights that are bundled."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hypersd import bundled
from hypersd.evaluate.sets import weights_digest

RESULTS = Path(__file__).parents[2] / "docs" / "results"
METHODS = sorted((RESULTS / "methods").glob("*-[0-9].json"))


def sha256(file: Path) -> dict[str, str]:
    found = json.loads(file.read_text())
    return found["about"]["sha256"]


def test_the_report_is_of_the_bundled_base_and_lora():
    expected = {"base": weights_digest(bundled.BASE), "lora": weights_digest(bundled.LORA)}
    assert sha256(RESULTS / "emoji-report.json") == expected


@pytest.mark.parametrize("file", METHODS, ids=lambda file: file.stem)
def test_methods_were_distilled_from_the_bundled_base(file):
    assert sha256(file)["base"] == weights_digest(bundled.BASE)
