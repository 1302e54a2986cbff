"""Training that goes on from a LoRA: the same weights at first, whatever its alpha; one that does not fit is told."""

from __future__ import annotations

import pytest
import torch

from hypersd import bases, recipe
from hypersd.distill import resolve
from hypersd.distill.train import train
from hypersd.lora import files
from hypersd.lora.roles import Roles
from tests.distill.killer import RECIPE
from tests.distill.runs import losses
from tests.loras import write_lora

TARGETS = ("to_q", "to_v", "conv1")
ONE_STAGE = {**RECIPE, "ema": None, "stages": [{"segments": 4, "iterations": 4}]}


def start(base, lora: dict):
    made = recipe.parse({**ONE_STAGE, "base": "emoji", "lora": lora})
    roles = Roles(base.unet)
    roles.add("student", made.lora.rank, made.lora.targets or TARGETS, made.lora.alpha)
    state = resolve.lora_start(made, base, roles.parameters("student"))
    assert state
    roles.load("student", state)
    return roles


@pytest.fixture(scope="module")
def released(tiny_folder, tmp_path_factory):
    return write_lora(bases.load(tiny_folder, "cpu"), tmp_path_factory.mktemp("released") / "released.safetensors")


def delta(roles, role: str = "student") -> torch.Tensor:
    """What the role changes in one layer: scale x B A."""
    for layer in roles.tuned:
        if role in layer.scaling and isinstance(layer.base_layer, torch.nn.Linear):
            return layer.get_delta_weight(role)
    raise AssertionError("no such layer")


@pytest.mark.parametrize("alpha", [None, 1.0, 8.0])
def test_the_student_begins_as_the_file_says_whatever_alpha(tiny_base, released, alpha):
    roles = start(tiny_base, {"rank": 2, "alpha": alpha, "targets": TARGETS, "start": str(released)})
    weights = files.read(released).weights
    name = next(name for name in weights if "to_q.lora_A" in name)
    expected = weights[name.replace("lora_A", "lora_B")] @ weights[name]
    torch.testing.assert_close(delta(roles), expected)


def test_the_first_stage_follows_the_student_that_it_starts_from(tmp_path):
    """As Lightning's later stages alone do; without one, the base."""
    first = train(recipe.parse(ONE_STAGE), tmp_path / "first")
    begun = {**ONE_STAGE, "stages": [{"segments": 4, "iterations": 2}], "optimiser": {"lr": 1e-12}}
    lost = {}
    for teacher in ("base", "previous"):
        for lora in ({}, {"start": str(first)}):
            made = {**begun, "teacher": {"follow": teacher, "guidance": [3, 3]}, "lora": {**ONE_STAGE["lora"], **lora}}
            out = tmp_path / f"{teacher}{len(lora)}"
            train(recipe.parse(made), out)
            lost[teacher, bool(lora)] = losses(out)
    assert lost["base", False] == lost["previous", False]
    assert lost["base", True] != lost["previous", True]


def test_a_stage_goes_on_where_another_run_ended(tmp_path):
    """Without a step's worth of change: rate 1e-12."""
    first = train(recipe.parse(ONE_STAGE), tmp_path / "first")
    still = {**ONE_STAGE, "optimiser": {"lr": 1e-12}, "lora": {**ONE_STAGE["lora"], "start": str(first)}}
    second = train(recipe.parse(still), tmp_path / "second")
    before, after = files.read(first), files.read(second)
    for name, tensor in before.weights.items():
        torch.testing.assert_close(after.weights[name], tensor, rtol=0, atol=1e-9)
    assert after.recipe["lora"]["start"] == first.name  # the header says where it began, and no folder of ours


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"rank": 4, "targets": TARGETS}, "has rank 2, not 4: set lora.rank=2"),
        ({"rank": 2, "targets": ["to_q", "to_v"]}, "the recipe lacks .*conv1: set lora.targets"),
        ({"rank": 2, "targets": [*TARGETS, "to_k"]}, "it lacks .*to_k: set lora.targets"),
    ],
)
def test_a_lora_that_does_not_fit_is_told(tiny_base, released, lora, message):
    with pytest.raises(ValueError, match=message):
        start(tiny_base, {**lora, "start": str(released)})


def test_a_lora_that_is_not_there_is_told_before_anything_is_written(tmp_path):
    made = recipe.parse({**ONE_STAGE, "lora": {**ONE_STAGE["lora"], "start": str(tmp_path / "none.safetensors")}})
    with pytest.raises(FileNotFoundError, match="no LoRA file at"):
        train(made, tmp_path / "run")
    assert not (tmp_path / "run").exists()
