"""Going on with a run; that a killed one ends as a whole one is in `test_processes.py`, what stops one in
`test_stopped.py`.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hypersd import recipe, sharing
from hypersd.distill import checkpoint
from hypersd.distill.train import train
from tests.distill.bold import LIGHT, TWIN
from tests.distill.killer import RECIPE
from tests.distill.runs import Cut, contents, losses, whole_and_cut
from tests.pictures import write_latents

PICTURES = {
    "likeness": ({"kind": "paths", "pool": 8}, {"rollout": {}, "likeness": {"name": TWIN}}),
    "perceptual": ({"kind": "latents", "path": "latents.safetensors"}, {"perceptual": {"name": LIGHT}}),
}
"""Losses that look at pictures without an opponent: what they are trained on, and they."""


@pytest.mark.parametrize(("data", "asked"), PICTURES.values(), ids=PICTURES)
def test_a_run_that_looks_at_pictures_goes_on_as_if_it_had_not_stopped(tmp_path, monkeypatch, data, asked):
    """Bit for bit; human feedback's is in `test_feedback.py`, opponents' in `test_opponents.py`."""
    monkeypatch.chdir(tmp_path)
    write_latents(tmp_path / "latents.safetensors")
    draw = {"end": "visited", "visited_share": 1.0, "points": 8, "samplers": ["ddim"], "steps": [1, 2]}
    stages = [{"segments": 1, "iterations": 8}]
    values = {"data": data, "losses": asked, "draw": draw, "stages": stages, "batch": 4, "checkpoint_every": 3}
    made = recipe.parse({"name": "seen", "base": "toy", "lora": {"rank": 1, "dtype": "fp32"}, **values})
    whole, cut = whole_and_cut(made, tmp_path, updates=5)
    assert whole.keys() == cut.keys()
    assert all(torch.equal(tensor, cut[name]) for name, tensor in whole.items())


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


def test_only_a_rate_may_be_another_and_that_is_said(short):
    made, finished = short
    values, out = {**made.model_dump(mode="json"), "checkpoint_every": 1}, finished.parent / "cut"
    with pytest.raises(KeyboardInterrupt):
        train(recipe.parse(values), out, watch=Cut(3))
    slower = {**values, "optimiser": {**values["optimiser"], "lr": 1e-3}}
    with pytest.warns(UserWarning, match="goes on at another learning rate: its files will name this one only"):
        train(recipe.parse(slower), out, resume=True)
    calmer = {**slower, "optimiser": {**slower["optimiser"], "max_norm": 0.5}}
    with pytest.raises(ValueError, match="another recipe \\('optimiser' differs\\)"):
        train(recipe.parse(calmer), out, resume=True)
    label = (finished / "lora.safetensors").read_bytes()
    with pytest.raises(ValueError, match="is finished, and at another learning rate; resume with the same one"):
        train(recipe.parse(slower), finished, resume=True)
    assert (finished / "lora.safetensors").read_bytes() == label


def test_a_folder_without_a_checkpoint_is_not_written_over(short, tmp_path):
    made, out = short
    (out / checkpoint.NAME).unlink()
    other = recipe.parse({**made.model_dump(mode="json"), "seed": 1})
    with pytest.raises(ValueError, match=r"holds recipe\.json and no checkpoint to go on from; name another folder"):
        train(other, out)
    train(made, out)  # as one that was killed before its first checkpoint
    (tmp_path / "log.jsonl").write_text("notes of mine\n")
    with pytest.raises(ValueError, match=r"holds log\.jsonl and no checkpoint"):
        train(made, tmp_path)


def test_losses_in_another_order_draw_other_numbers_and_are_another_recipe(tmp_path):
    two = {
        "losses": {"score": {}, "consistency": {}},
        "draw": {"visited_share": 1.0, "steps": [1], "samplers": ["ddim"]},
    }
    values = {**RECIPE, **two, "stages": [{"segments": 1, "iterations": 1}]}
    train(recipe.parse(values), tmp_path)
    again = json.loads((tmp_path / "recipe.json").read_text())
    train(recipe.parse(again), tmp_path, resume=True)  # the folder's own is the same
    with pytest.raises(ValueError, match="another recipe \\('the order of losses' differs\\)"):
        train(recipe.parse({**again, "losses": {"consistency": {}, "score": {}}}), tmp_path, resume=True)


def test_a_run_of_an_older_program_is_gone_on_with(short):
    """Its recipe lacks a key that has come since; what does not change the training may differ."""
    made, out = short
    tensors, header = contents(out / checkpoint.NAME)
    run = json.loads(header["run"])
    del run["recipe"]["teacher"]["substeps"]
    save_file(tensors, out / checkpoint.NAME, {"run": json.dumps(run)})
    train(recipe.parse({**made.model_dump(mode="json"), "micro_batch": 1, "sample_every": 7}), out, resume=True)


def test_prompts_that_were_edited_meanwhile_are_other_data(tiny_folder, tmp_path):
    prompts, data = tmp_path / "prompts.txt", {"kind": "prompts", "pool": 2, "steps": 1}
    prompts.write_text("a fox\n")
    values = {**RECIPE, "base": str(tiny_folder), "data": {**data, "prompts": str(prompts)}, "checkpoint_every": 1}
    made = recipe.parse({**values, "stages": [{"segments": 4, "iterations": 3}]})
    with pytest.raises(KeyboardInterrupt):
        train(made, tmp_path / "run", watch=Cut(2))
    prompts.write_text("a bee\n")
    with pytest.raises(ValueError, match=r"data\.prompts is not what the run was started with"):
        train(made, tmp_path / "run", resume=True)


def test_two_runs_do_not_write_into_one_folder(short, tmp_path):
    made, out = short
    with sharing.claimed(out / "run", wait=False), pytest.raises(ValueError, match="another run is training into"):
        train(made, out, resume=True)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"could not write into .*; name another folder with --out"):
        train(made, tmp_path / "file")


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


def test_a_run_on_paths_goes_on_bit_for_bit(tmp_path):
    """With what is drawn for all samples of an update, and the code of each step; the pool is kept."""
    draw = {
        "points": 8,
        "end": "visited",
        "visited_share": 1.0,
        "samplers": ["ddim"],
        "steps": [1, 4],
        "together": True,
    }
    values = {**RECIPE, "data": {"kind": "paths", "pool": 8, "held": 2}, "draw": draw, "sampler": {"step_code": 1}}
    values |= {"losses": {"rollout": {}, "regression": {}}, "checkpoint_every": 3}
    made = recipe.parse({**values, "stages": [{"segments": 1, "iterations": 8}]})
    whole, cut = whole_and_cut(made, tmp_path, updates=5)
    assert whole.keys() == cut.keys()
    assert all(torch.equal(tensor, cut[name]) for name, tensor in whole.items())
    assert losses(tmp_path / "whole") == losses(tmp_path / "cut")


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
