"""Two processes that share a batch end where one does: samples and gradients are the batch's, not the process's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hypersd import recipe
from hypersd.distill import checkpoint
from hypersd.distill import train as training
from hypersd.distill.train import train as run
from hypersd.lora import files

RECIPE = Path(__file__).parents[2] / "recipes" / "toy.yaml"
STAGES = ("stages=[{segments: 8, iterations: 6}, {segments: 4, iterations: 6}]", "batch=8", "checkpoint_every=4")


def alone(out: Path, *more: str) -> None:
    run(recipe.load(RECIPE, [*STAGES, *more]), out)


def in_two(out: Path, *more: str) -> subprocess.CompletedProcess:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [sys.executable, *launch, "-m", "hypersd", "train", str(RECIPE), *STAGES, *more]
    settings = {**os.environ, "OMP_NUM_THREADS": "1"}  # and no more: torchrun alone must do
    return subprocess.run([*command, "--out", str(out)], capture_output=True, text=True, env=settings)


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("processes")


def test_two_processes_end_where_one_does(folder):
    alone(folder / "1")
    done = in_two(folder / "2")
    assert done.returncode == 0, done.stderr
    one, two = (files.read(folder / name / "lora.safetensors").weights for name in "12")
    for name, expected in one.items():
        torch.testing.assert_close(two[name], expected, rtol=1e-4, atol=1e-6)
    assert losses(folder / "2") == pytest.approx(losses(folder / "1"), rel=1e-5)  # and logged once, not twice
    assert checkpoint.read(folder / "2").progress.stage == 2


def test_an_opponent_is_shared_too(folder):
    """Its network begins alike in both processes, and learns from the gradients of both."""
    more = ["losses={adversarial: {width: 4, heads: {lr: 0.01}}}", "draw.visited_share=1", "draw.end=visited"]
    more += ["draw.samplers=[ddim]", "draw.steps=[1, 2]", "stages=[{segments: 1, iterations: 6}]"]
    alone(folder / "opposed-1", *more)
    done = in_two(folder / "opposed-2", *more)
    assert done.returncode == 0, done.stderr
    one, two = (checkpoint.read(folder / f"opposed-{name}").tensors for name in "12")
    for name, expected in one.items():
        torch.testing.assert_close(two[name], expected, rtol=1e-4, atol=1e-6)
    assert losses(folder / "opposed-2") == pytest.approx(losses(folder / "opposed-1"), rel=1e-5)


def test_a_batch_that_does_not_divide_is_told(folder, monkeypatch):
    monkeypatch.setattr(training, "_accelerator", lambda: SimpleNamespace(num_processes=2))
    with pytest.raises(ValueError, match="a batch of 9 does not divide over 2 processes; set batch="):
        alone(folder / "odd", "batch=9")
    assert not (folder / "odd").exists()
