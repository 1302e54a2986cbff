"""Losses with an opponent, in a run: what is saved, resumed, and split into micro-batches."""

from __future__ import annotations

import pytest
import torch

from hypersd import recipe
from hypersd.distill import checkpoint
from hypersd.distill.losses.score import FAKE
from hypersd.distill.step import STUDENT
from hypersd.distill.train import train
from hypersd.distill.watch import Silent
from hypersd.lora import files
from tests.distill import test_adversarial, test_score

OF_JUMPS = {"losses": {"score": {"updates": 2, "trajectory": True}}}
RUNS = [
    (test_score.RECIPE, FAKE),
    ({**test_score.RECIPE, **OF_JUMPS, "draw": {**test_score.RECIPE["draw"], "steps": [1, 2]}}, FAKE),
    ({**test_score.RECIPE, "draw": {**test_score.RECIPE["draw"], "steps": [1, 4], "eta": 1.0}}, FAKE),
    (test_adversarial.RECIPE, "network adversarial"),
]


class Stop(Silent):
    def update(self, iteration: int, loss: float, lr: float) -> None:
        if iteration == 5:
            raise KeyboardInterrupt


@pytest.mark.parametrize(("values", "opponent"), RUNS)
def test_a_run_goes_on_with_its_opponent_as_it_was(tmp_path, values, opponent):
    made = recipe.parse({**values, "checkpoint_every": 3, "batch": 4, "stages": [{"segments": 1, "iterations": 8}]})
    train(made, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(made, tmp_path / "cut", watch=Stop())
    half = {name.partition("/")[0] for name in checkpoint.read(tmp_path / "cut").tensors}
    assert {STUDENT, opponent} <= half
    train(made, tmp_path / "cut", resume=True)
    whole, cut = (checkpoint.read(tmp_path / name) for name in ("whole", "cut"))
    assert {name.partition("/")[0] for name in whole.tensors} == half & {STUDENT, FAKE}
    assert all(torch.equal(tensor, cut.tensors[name]) for name, tensor in whole.tensors.items())


@pytest.mark.parametrize("micro_batch", [1, 3])
@pytest.mark.parametrize(("values", "opponent"), RUNS)
def test_micro_batches_change_nothing(tmp_path, values, opponent, micro_batch):
    few = {**values, "batch": 4, "stages": [{"segments": 1, "iterations": 4}]}
    whole, parts = (
        files.read(train(recipe.parse({**few, "micro_batch": size}), tmp_path / str(size))).weights
        for size in (None, micro_batch)
    )
    for name, weight in whole.items():
        torch.testing.assert_close(parts[name], weight, rtol=1e-4, atol=1e-6)
