"""A run that is killed at any moment and resumed ends as the one that was not, bit for bit; and two processes that
share a batch end where one does: samples and gradients are the batch's, not the process's."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hypersd import recipe
from hypersd.distill import checkpoint
from hypersd.distill import train as training
from hypersd.distill.train import train
from hypersd.lora import files
from tests.distill.apart import ROOT, train_apart
from tests.distill.runs import contents, losses

RECIPE = ROOT / "recipes" / "toy.yaml"
CHANGES = ("batch=8", "checkpoint_every=4")
RUNS = {
    "plain": [*CHANGES, "stages=[{segments: 8, iterations: 6}, {segments: 4, iterations: 6}]"],
    "opposed": [
        *CHANGES,
        "losses={adversarial: {width: 4, heads: {lr: 0.01}}}",
        *("draw.visited_share=1", "draw.end=visited", "draw.samplers=[ddim]", "draw.steps=[1, 2]"),
        "stages=[{segments: 1, iterations: 6}]",
    ],
    "full": [
        *(*CHANGES, "student=full", "losses={score: {updates: 2}}"),
        *("draw.visited_share=1", "draw.end=visited", "draw.samplers=[ddim]", "draw.steps=[1]"),
        *("sampler={name: ddim, one_step: 800, steps: [1]}", "stages=[{segments: 1, iterations: 6}]"),
    ],
}


def alone(name: str, out: Path) -> Path:
    train(recipe.load(RECIPE, RUNS[name]), out / name)
    return out / name


def only(lines: list[tuple[int, int, float]]) -> list[float]:
    return [loss for *_, loss in lines]


def moments() -> list[tuple[str, float]]:
    """When to kill."""
    seed = int(os.environ.get("HYPERSD_KILL_SEED") or time.time())
    print(f"to repeat: HYPERSD_KILL_SEED={seed}")  # pytest shows it when a test fails
    rng = random.Random(seed)
    return [
        ("before rename", 1),  # nothing is there yet
        ("iteration", rng.randint(7, 11)),
        ("before rename", 3),  # log, recipe, then a checkpoint: the new one is whole but not in place
        ("after rename", 4),  # where it comes once the next update has proved it
        ("in write", rng.randint(2, 3)),
        ("iteration", rng.randint(8, 16)),
        ("before rename", 4),
        ("seconds", 0.5 * rng.random()),  # last: it may come when all is done
    ]


@pytest.fixture(scope="module")
def apart(tmp_path_factory):
    """Runs in processes of their own."""
    out = tmp_path_factory.mktemp("apart")
    train_apart(out, moments(), RECIPE, RUNS)
    return out


def test_killed_runs_end_like_the_whole_one(apart):
    whole, killed = apart / "whole", apart / "killed"
    for name in ("lora.safetensors", "stage1-4segments.safetensors", checkpoint.NAME):
        (expected, header), (got, other) = contents(whole / name), contents(killed / name)
        assert expected.keys() == got.keys()
        assert all(torch.equal(expected[key], got[key]) for key in expected), name
        assert header == other
    assert losses(killed) == losses(whole)
    assert not list(killed.rglob("*.tmp"))


def test_two_processes_end_where_one_does(apart, tmp_path):
    one, two = alone("plain", tmp_path), apart / "plain"
    expected, got = (files.read(folder / "lora.safetensors").weights for folder in (one, two))
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], rtol=1e-4, atol=1e-6)
    assert only(losses(two)) == pytest.approx(only(losses(one)), rel=1e-5)  # and logged once, not twice
    assert checkpoint.read(two).progress.stage == 2


@pytest.mark.parametrize("name", ["opposed", "full"])
def test_an_opponent_and_a_whole_network_are_shared_too(apart, tmp_path, name):
    """An opponent begins alike in both processes, and learns from the gradients of both."""
    one, two = alone(name, tmp_path), apart / name
    expected, got = (checkpoint.read(folder).tensors for folder in (one, two))
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], rtol=1e-4, atol=1e-6)
    assert only(losses(two)) == pytest.approx(only(losses(one)), rel=1e-5)


def test_a_batch_that_does_not_divide_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "_accelerator", lambda: SimpleNamespace(num_processes=2))
    with pytest.raises(ValueError, match="a batch of 9 does not divide over 2 processes; set batch="):
        train(recipe.load(RECIPE, [*RUNS["plain"], "batch=9"]), tmp_path / "odd")
    assert not (tmp_path / "odd").exists()
