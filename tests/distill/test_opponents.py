"""Losses with an opponent, in a run: what is saved, resumed, and split into micro-batches."""

from __future__ import annotations

import pytest
import torch

from hypersd import recipe
from hypersd.distill import checkpoint, losses
from hypersd.distill.losses.score import FAKE
from hypersd.distill.step import STUDENT
from hypersd.distill.train import train
from hypersd.lora import files
from tests.distill import test_adversarial, test_score
from tests.distill.killer import RECIPE
from tests.distill.runs import Cut, contents, whole_and_cut

HEADS = "network adversarial"
OF_JUMPS = {"losses": {"score": {"updates": 2, "trajectory": True}}}
RUNS = [
    (test_score.RECIPE, FAKE),
    ({**test_score.RECIPE, **OF_JUMPS, "draw": {**test_score.RECIPE["draw"], "steps": [1, 2]}}, FAKE),
    ({**test_score.RECIPE, "draw": {**test_score.RECIPE["draw"], "steps": [1, 4], "eta": 1.0}}, FAKE),
    (test_adversarial.RECIPE, HEADS),
]
JUMPS = {"of": "jump", "real": "target", "width": 4}
TWO = {"losses": {"score": {"updates": 2}, "adversarial": {"updates": 2, "width": 4}}}
SCORE = {"draw": test_score.RECIPE["draw"], "losses": {"score": {}}}
RESUMED = {
    "score": (RUNS[0][0], [{}]),
    "trajectory": (RUNS[1][0], [{}]),
    "eta": (RUNS[2][0], [{}]),
    "drawing": (RUNS[3][0], [{}]),
    "pair": ({**RECIPE, "losses": {"consistency": {}, "adversarial": {**JUMPS, "pair": True}}}, [{}]),
    "pool": ({**RECIPE, "losses": {"adversarial": {**JUMPS, "pool": 3, "refreshed": 0.3, "r1": 1.0}}}, [{}]),
    "dmd2": ({**test_score.RECIPE, **TWO}, [{}]),
    "hyper": ({**RECIPE, "losses": {"consistency": {}, "adversarial": JUMPS}}, [{}, {"ema": None, **SCORE}]),
}


@pytest.mark.parametrize(("name", "settings"), [("score", {}), ("adversarial", {"of": "jump"})])
def test_a_rate_alone_leaves_its_optimiser_what_it_else_has(name, settings):
    """β1 = 0, above all: an opponent's momentum is of a student that is gone."""
    trains = losses.load(name, settings).trains
    usual, other = (losses.load(name, {**settings, trains: given}).optimiser for given in ({}, {"lr": 0.5}))
    assert other.betas == usual.betas
    assert (usual.betas[0], other.lr) == (0.0, 0.5)


@pytest.mark.parametrize(("values", "overrides"), RESUMED.values(), ids=RESUMED)
def test_a_run_goes_on_with_its_opponents_as_they_were(tmp_path, values, overrides):
    """Bit for bit, cut in its last stage."""
    stages = [{"segments": 1, "iterations": 6, "override": override} for override in overrides]
    made = recipe.parse({**values, "checkpoint_every": 3, "batch": 4, "stages": stages})
    whole, again = whole_and_cut(made, tmp_path, updates=6 * len(stages) - 1)
    assert whole.keys() == again.keys()
    assert all(torch.equal(tensor, again[key]) for key, tensor in whole.items())
    for file in (tmp_path / "whole").glob("stage*.safetensors"):  # heads too
        expected, got = (contents(folder / file.name)[0] for folder in (file.parent, tmp_path / "cut"))
        assert all(torch.equal(tensor, got[key]) for key, tensor in expected.items())


@pytest.mark.parametrize(("values", "opponent"), [RUNS[0], RUNS[3]])
def test_what_is_cut_has_kept_its_opponent_and_its_moments(tmp_path, values, opponent):
    made = recipe.parse({**values, "checkpoint_every": 3, "batch": 4, "stages": [{"segments": 1, "iterations": 8}]})
    with pytest.raises(KeyboardInterrupt):
        train(made, tmp_path, watch=Cut(5))
    name = next(iter(made.losses))
    kept = {key.partition("/")[0] for key in checkpoint.read(tmp_path).tensors}
    assert kept == {STUDENT, opponent, f"optimiser {STUDENT}", f"optimiser {name}"}


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
