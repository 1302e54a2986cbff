"""A student that is a network of its own, begun at t = 800: Hyper-SD's one-step network on Gaussians."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hypersd import bases, bundled, recipe
from hypersd.diffusion.segments import Segments
from hypersd.distill import paths, resolve
from hypersd.distill.losses.score import FAKE
from hypersd.distill.randomness import generators
from hypersd.distill.step import STUDENT, draw_batch
from hypersd.distill.train import train
from hypersd.draw.pipeline import Drawer, Settings
from hypersd.lora import files, network
from hypersd.recipe import Draw, Teacher
from tests.distill import test_score
from tests.distill.runs import whole_and_cut
from tests.distill.test_score import REAL

ROOT = Path(__file__).parents[2]
FIRST = 800
SAMPLER = {"name": "ddim", "one_step": FIRST, "steps": [1]}
RECIPE = {**test_score.RECIPE, "student": "full", "sampler": SAMPLER, "stages": [{"segments": 1, "iterations": 120}]}
FOUR = {**RECIPE, "batch": 4, "stages": [{"segments": 1, "iterations": 4}]}


def drawn_std(weights) -> float:
    base = bases.load("toy", "cpu", std=REAL)
    base.unet.load_state_dict(load_file(weights))
    return float(Drawer(base).latents([""] * 64, range(64), Settings(1, "ddim", {"one_step": FIRST})).std())


def test_one_step_from_800_reaches_the_data_itself(tmp_path):
    """By score distillation, the fake score a LoRA; of the whole network only what is told 800 has moved."""
    result = train(recipe.parse(RECIPE), tmp_path / "run")
    assert result == tmp_path / "run" / "unet.safetensors"
    assert drawn_std(result) == pytest.approx(REAL, rel=0.03)
    moved = load_file(result)["table.weight"] != bases.load("toy", "cpu", std=REAL).unet.table.weight
    assert moved.nonzero()[:, 0].tolist() == [FIRST]
    about = network.read_header(result)
    assert (about.recipe["student"], about.sampler["one_step"], about.sampler["steps"]) == ("full", FIRST, [1])
    assert (tmp_path / "run" / "stage1-1segments.safetensors").is_file()


def test_a_run_goes_on_where_it_was_cut(tmp_path):
    """Bit for bit, with a full target, the optimiser's moments and a LoRA beside it."""
    losses = {"consistency": {}, **RECIPE["losses"]}
    cut = {"ema": 0.9, "losses": losses, "checkpoint_every": 3, "stages": [{"segments": 1, "iterations": 8}]}
    made = recipe.parse({**FOUR, **cut})
    whole, again = whole_and_cut(made, tmp_path, updates=5)
    assert {name for name in whole if name.startswith(("student/", "target/"))} == {
        "student/table.weight",
        "target/table.weight",
    }
    assert whole.keys() == again.keys()
    assert all(torch.equal(tensor, again[name]) for name, tensor in whole.items())
    assert not torch.equal(whole["student/table.weight"], whole["target/table.weight"])


def test_micro_batches_change_nothing(tmp_path):
    whole, parts = (
        load_file(train(recipe.parse({**FOUR, "micro_batch": size}), tmp_path / str(size)))["table.weight"]
        for size in (None, 3)
    )
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-6)


def test_it_begins_as_the_base_with_a_loras_change_in_it(tmp_path):
    """Without a step's worth of change: rate 1e-12."""
    lora = train(recipe.parse({**FOUR, "student": "lora"}), tmp_path / "lora")
    still = {**FOUR, "lora": {"rank": 1, "dtype": "fp32", "start": str(lora)}, "optimiser": {"lr": 1e-12}}
    got = load_file(train(recipe.parse(still), tmp_path / "full"))["table.weight"]
    (a, b), base = files.layers(files.read(lora).weights)["table"], bases.load("toy", "cpu").unet.table.weight
    weights = files.read(lora).weights
    expected = base + weights[a].T @ weights[b].T
    assert not torch.equal(expected, base)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-7)


def test_the_recipe_begins_as_the_bundled_lora():
    made = recipe.load(ROOT / "recipes" / "one-step.yaml")
    resolve.check(made)
    assert bundled.lora(made.lora.start) == bundled.LORA
    assert made.lora.rank == files.read(bundled.LORA).rank
    assert resolve.visited(made) == [[FIRST]]
    assert resolve.roles(made) == {STUDENT: None, FAKE: 12}


@pytest.mark.parametrize("of_paths", [False, True])
def test_what_begins_lower_begins_from_pure_noise(tmp_path, of_paths):
    """Whether or not the data are paths, none of which passes 800; what begins at 999 is drawn as before."""
    toy, size = bases.load("toy", "cpu", std=REAL), 32
    rngs = generators(0, 0, 0, range(size))
    kept = paths.load(toy, paths.Settings(pool=4), Teacher(guidance=(1.0, 1.0)), 8, tmp_path)
    x0 = kept.draw(rngs).latents if of_paths else torch.zeros(size, 1, 8, 8)
    how = Draw(points=8, end="visited", visited_share=1.0)
    batch = draw_batch(toy, x0, toy.encode([""] * size), rngs, Segments(1, 8), how, [[800], [999, 499]], (1.0, 1.0))
    lower = batch.t == 800
    assert set(batch.t.tolist()) == {499, 800, 999}
    assert torch.equal(batch.x_t[lower], batch.eps[lower])
    assert torch.equal(batch.x_t[batch.t == 999], batch.eps[batch.t == 999]) == of_paths
    assert not torch.equal(batch.x_t[batch.t == 499], batch.eps[batch.t == 499])


def test_the_samplers_settings_are_trained_at():
    assert resolve.visited(recipe.parse(RECIPE)) == [[FIRST]]
    both = {**RECIPE, "draw": {**RECIPE["draw"], "samplers": ["tcd", "ddim"], "steps": [1, 2]}}
    assert resolve.visited(recipe.parse(both)) == [[FIRST], [999, 499], [FIRST], [999, 499]]


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ({"lora": {"beneath": "x.safetensors"}}, "student: full has no LoRA beneath it: set lora.start"),
        ({"draw": {"visited_share": 0}}, "sampler.one_step must be trained at: set draw.visited_share=1"),
        ({"draw": {"visited_share": 1, "steps": [2]}}, "and draw.steps with 1 in it"),
        ({"sampler": {**SAMPLER, "one_step": 800.5}}, "one_step must be a timestep, a whole number"),
        ({"sampler": {**SAMPLER, "first": 800}}, "sampler 'ddim' has no setting 'first'; it has one_step"),
        ({"student": "whole"}, "'student'"),
    ],
)
def test_what_makes_no_sense_is_told(change, remedy):
    with pytest.raises(ValueError, match=remedy):
        recipe.parse({**RECIPE, **change})


def test_a_timestep_that_does_not_exist_is_told_before_anything_is_written(tmp_path):
    made = recipe.parse({**RECIPE, "sampler": {**SAMPLER, "one_step": 1000}})
    with pytest.raises(ValueError, match="one_step must be a timestep below 1000, not 1000"):
        train(made, tmp_path / "run")
    assert not (tmp_path / "run").exists()
