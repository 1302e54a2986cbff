"""What the base draws beside all methods: kept once for all, by many at once, and named in the table."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from hypersd import sharing
from hypersd.cli import app
from hypersd.evaluate import beside, comparison, evaluation, methods
from hypersd.evaluate.report import Report, Row, Stat

STEPS, EVALUATIONS = "undistilled, equal steps", "undistilled, equal evaluations"
ABOUT = {"split": "develop", "pictures": 500, "seeds": 1, "guidance": 5.0, "machine": "here"}


def row(role, steps, guidance=1.0, sampler="ddim", value=1.0):
    passes = steps * (1 if guidance == 1 else 2)
    return Row(role, steps, passes, sampler, guidance, {"alignment": Stat((value,))})


def report(*rows, **about):
    return Report(rows, (), {}, about={**ABOUT, **about})


def test_a_row_is_kept_once_and_the_last_one_stands(tmp_path):
    beside.keep(tmp_path, report(row("teacher", 25, 5.0), row(STEPS, 4), row("distilled", 4)))
    beside.keep(tmp_path, report(row(STEPS, 4, 5.0, value=2 / 3), row(STEPS, 8, 5.0), machine="there"))
    found = [(each.steps, each.guidance, each.mean("alignment")) for each in beside.read(tmp_path)]
    assert found == [(25, 5.0, 1.0), (8, 5.0, 1.0), (4, 5.0, 0.666667)]
    with pytest.raises(ValueError, match=r"base.json was measured otherwise, .*'pictures': 500.*: delete it"):
        beside.keep(tmp_path, report(row(STEPS, 4), pictures=64))
    with pytest.raises(ValueError, match="measured otherwise"):
        beside.keep(tmp_path, report(row(STEPS, 4), guidance=3.0))
    assert methods.read(tmp_path) == []
    assert beside.read(tmp_path / "nothing") == []


def test_measured_anew_nothing_of_before_stays(tmp_path):
    beside.keep(tmp_path, report(row("teacher", 25, 5.0), row(STEPS, 4)))
    chosen = replace(report(row(STEPS, 2), pictures=64), selection={"2 steps": {"base, 2 steps, ddim": 1.0}})
    beside.keep(tmp_path, chosen, anew=True)
    assert [each.steps for each in beside.read(tmp_path)] == [2]
    assert json.loads((tmp_path / "base.json").read_text())["selection"] == chosen.selection


def test_many_may_keep_at_once(tmp_path, monkeypatch):
    """None loses what another has just written."""
    monkeypatch.setattr(sharing, "POLL", 0.002)
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda n: beside.keep(tmp_path, report(row(STEPS, n))), range(1, 41)))
    assert [each.steps for each in beside.read(tmp_path)] == list(range(40, 0, -1))
    assert [file.name for file in tmp_path.iterdir()] == ["base.json"]


def test_the_table_names_what_is_the_best_without_training(tmp_path):
    rows = [row("teacher", 25, 5.0), row("hardness", 4, 5.0), row(STEPS, 4, 5.0), row(EVALUATIONS, 4, 5.0)]
    rows += [row(EVALUATIONS, 1, sampler="ddim from 800"), row(STEPS, 2, 2.0, "unipc")]
    beside.keep(tmp_path, report(*rows))
    assert [each.role for each in beside.read(tmp_path)] == [
        "base, the teacher",
        "base, best training-free at 4 steps and 8 evaluations",
        "base, best training-free at 2 steps",
        "base, best training-free at 1 evaluation",
    ]
    run = {"recipe": {"name": "lcm", "sampler": {"name": "lcm"}, "seed": 0}, "iterations": [], "rows": []}
    run["about"] = {**ABOUT, "forward_equivalents": 1, "train_minutes": 1.0, "command": ""}
    text = comparison.markdown([run], beside.read(tmp_path))
    assert "| 2 | base, best training-free at 2 steps | unipc | 2 | 1.000 |" in text
    assert "alignment" in text
    assert "LPIPS" not in text  # nothing measured it


def test_the_base_is_measured_alone_by_a_command(tmp_path, monkeypatch):
    asked = []

    def run(base, lora, **given):
        asked.append((base, lora, given["steps"], given["pictures"], given["seeds"], given["optional"]))
        return report(row("teacher", 25, 5.0), pictures=given["pictures"])

    monkeypatch.setattr(evaluation, "run", run)
    result = CliRunner().invoke(app, ["bench", "base", "--pictures", "64", "--steps", "1,2", "--out", str(tmp_path)])
    assert (result.exit_code, result.stdout.strip()) == (0, str(tmp_path / "base.json"))
    assert asked == [("emoji", None, [1, 2], 64, 1, False)]
    assert [each.role for each in beside.read(tmp_path)] == ["base, the teacher"]
