"""Going on with a run, and what stops one; that a killed run ends as a whole one is in `test_processes.py`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hypersd import recipe
from hypersd.distill import checkpoint
from hypersd.distill.losses import score as opponent
from hypersd.distill.step import tscd
from hypersd.distill.train import train
from tests.distill.killer import RECIPE
from tests.distill.runs import contents, losses


@pytest.fixture
def short(tmp_path) -> tuple[recipe.Recipe, Path]:
    made = recipe.parse({**RECIPE, "stages": [{"segments": 4, "iterations": 3}]})
    train(made, tmp_path / "run")
    return made, tmp_path / "run"


def test_a_run_is_never_overwritten_by_mistake(short):
    made, out = short
    before = (out / "lora.safetensors").read_bytes()
    with pytest.raises(ValueError, match="already holds a run; go on with --resume"):
        train(made, out)
    assert (out / "lora.safetensors").read_bytes() == before


def test_resuming_with_another_recipe_names_what_differs(short):
    made, out = short
    other = recipe.parse({**made.model_dump(mode="json"), "seed": 1})
    with pytest.raises(ValueError, match="another recipe \\('seed' differs\\)"):
        train(other, out, resume=True)


def test_a_run_of_an_older_program_is_gone_on_with(short):
    """Its recipe lacks a key that has come since; what does not change the training may differ."""
    made, out = short
    tensors, header = contents(out / checkpoint.NAME)
    run = json.loads(header["run"])
    del run["recipe"]["teacher"]["substeps"]
    save_file(tensors, out / checkpoint.NAME, {"run": json.dumps(run)})
    train(recipe.parse({**made.model_dump(mode="json"), "micro_batch": 1, "sample_every": 7}), out, resume=True)


def test_resuming_nothing_is_noticed(tmp_path):
    made = recipe.parse({**RECIPE, "stages": [{"segments": 4, "iterations": 1}]})
    with pytest.warns(UserWarning, match="nothing to resume"):
        train(made, tmp_path / "run", resume=True)


def test_what_killed_processes_left_is_swept(tmp_path):
    made, out = recipe.parse({**RECIPE, "stages": [{"segments": 4, "iterations": 1}]}), tmp_path / "run"
    (out / "samples").mkdir(parents=True)
    left = [out / ".checkpoint.safetensors.123.tmp", out / "samples" / ".a.png.7.tmp"]
    for path in left:
        path.write_bytes(b"half")
    (out / "mine.tmp").write_bytes(b"mine")
    train(made, out)
    assert not any(path.exists() for path in left)
    assert (out / "mine.tmp").exists()


def test_a_stage_may_have_a_moving_average_of_its_own(tmp_path):
    stages = [{"segments": 4, "iterations": 2}, {"segments": 1, "iterations": 2, "override": {"ema": 0.9}}]
    train(recipe.parse({**RECIPE, "ema": None, "stages": stages}), tmp_path / "run")
    roles = {key.partition("/")[0] for key in contents(tmp_path / "run" / checkpoint.NAME)[0]}
    assert {"student", "target"} <= roles


def test_a_gradient_that_is_no_number_stops_the_run(tmp_path, monkeypatch):
    """Even where the loss is one: weights of NaN would be saved, and never go on."""

    def student(self, batch, nets):
        x_end = nets.once(tscd, batch).x_end
        return (x_end - x_end.detach()).square().sum().sqrt()  # 0, with the gradient 0 / 0

    monkeypatch.setattr("hypersd.distill.losses.consistency.Loss.student", student)
    made = recipe.parse({**RECIPE, "ema": None, "stages": [{"segments": 4, "iterations": 3}]})
    with pytest.raises(FloatingPointError, match="the gradient became nan in stage 1 at iteration 0"):
        train(made, tmp_path / "run")
    assert not (tmp_path / "run" / checkpoint.NAME).exists()


def test_a_damaged_checkpoint_says_so(short):
    made, out = short
    path = out / checkpoint.NAME
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(OSError, match="damaged"):
        train(made, out, resume=True)


def test_resuming_a_finished_run_changes_nothing(short):
    made, out = short
    before, header = contents(out / "lora.safetensors")
    train(made, out, resume=True)
    after, same_header = contents(out / "lora.safetensors")
    assert header == same_header
    assert all(torch.equal(before[key], after[key]) for key in before)


OPPOSED = {
    "draw": {"visited_share": 1.0, "samplers": ["ddim"], "steps": [1, 2], "end": "visited"},
    "losses": {"score": {"updates": 2}},
    "micro_batch": None,
}


def test_a_loss_that_explodes_stops_the_run_and_says_where(tmp_path):
    made = recipe.parse({**RECIPE, "optimiser": {"lr": 1e30, "max_norm": 1e30}})
    with pytest.raises(FloatingPointError, match=r"stage 1 at iteration .*lower optimiser.lr$"):
        train(made, tmp_path / "run")
    stages = [{"segments": 1, "iterations": 20, "override": {"optimiser.lr": 1e30}}]
    made = recipe.parse({**RECIPE, "optimiser": {"max_norm": 1e30}, "stages": stages})
    with pytest.raises(FloatingPointError, match=r"lower optimiser.lr \(stages.0.override has its own\)$"):
        train(made, tmp_path / "own")


def test_an_opponent_that_explodes_stops_it_too(tmp_path, monkeypatch):
    made = recipe.parse({**RECIPE, **OPPOSED, "stages": [{"segments": 1, "iterations": 40}]})
    learn, calls = opponent.Loss.opponent, []

    def exploding(self, batch, nets):
        calls.append(batch)
        return learn(self, batch, nets) * (1e9 if len(calls) > 60 else 1.0)

    monkeypatch.setattr(opponent.Loss, "opponent", exploding)
    with pytest.raises(FloatingPointError, match=r"'score, opponent' grew .* a lower lr in losses.score"):
        train(made, tmp_path / "run")


def test_a_stages_file_says_in_how_many_steps_it_draws(tmp_path):
    stages = [{"segments": k, "iterations": 1} for k in (8, 4, 1, 1)]
    train(recipe.parse({**RECIPE, "sampler": {"steps": [1, 2]}, "stages": stages}), tmp_path)
    names = {"stage1-8segments": [8], "stage2-4segments": [4], "stage3-1segments": [1, 2], "lora": [1, 2]}
    said = {name: json.loads(contents(tmp_path / f"{name}.safetensors")[1]["hyper.sampler"]) for name in names}
    assert {name: usage["steps"] for name, usage in said.items()} == names


def test_micro_batches_change_nothing(tmp_path):
    """Their gradients add up to the batch's: same draws, same loss."""
    small = {**RECIPE, "stages": [{"segments": 4, "iterations": 8}], "ema": None}
    for name, size in (("one", None), ("many", 1)):
        train(recipe.parse({**small, "micro_batch": size}), tmp_path / name)
    for first, second in zip(losses(tmp_path / "one"), losses(tmp_path / "many"), strict=True):
        assert first[:2] == second[:2]
        assert first[2] == pytest.approx(second[2], rel=1e-4)
