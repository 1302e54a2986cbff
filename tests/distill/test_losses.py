"""What a loss needs of its batches is asked for before a run begins."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from hypersd import recipe
from hypersd.distill import losses
from hypersd.distill.train import train
from hypersd.recipe import Strict

GAUSSIAN, SOME = {"data": {"kind": "gaussian"}}, {"draw": {"visited_share": 0.9}}


@pytest.mark.parametrize(
    ("loss", "changed", "remedy"),
    [
        ("rollout", GAUSSIAN, r"set data=\{kind: paths\}"),
        ("regression", GAUSSIAN, r"set data=\{kind: paths\}"),
        ("rollout", SOME, r"set draw.visited_share=1"),
        ("score", SOME, r"set draw.visited_share=1"),
        ("adversarial", SOME, r"set draw.visited_share=1"),
    ],
)
def test_what_a_loss_lacks_is_said_before_anything_is_written(tmp_path, loss, changed, remedy):
    draw = {"points": 8, "end": "visited", "visited_share": 1.0, "steps": [2]}
    values = {"name": "lacking", "base": "toy", "losses": {loss: {}}, "data": {"kind": "paths"}, **changed}
    stages = [{"segments": 1, "iterations": 1}]
    made = recipe.parse({**values, "draw": draw | changed.get("draw", {}), "stages": stages})
    with pytest.raises(ValueError, match=f"the loss '{loss}' of stage 1 follows .*{remedy}"):
        train(made, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_weight_may_move_over_the_stage(tmp_path):
    """From its first value towards its last, by the share of iterations that are done."""
    values = {"name": "moving", "base": "toy", "data": {"kind": "gaussian"}, "batch": 4}
    stages = [{"segments": 8, "iterations": 5}]
    terms = {}
    for name, weight in {"fixed": 1.0, "moving": [1.0, 0.0]}.items():
        made = recipe.parse({**values, "losses": {"consistency": {"weight": weight}}, "stages": stages, **FROZEN})
        train(made, tmp_path / name)
        lines = (tmp_path / name / "log.jsonl").read_text().splitlines()
        terms[name] = [json.loads(line)["loss"] for line in lines]
    expected = [loss * (1 - index / 5) for index, loss in enumerate(terms["fixed"])]
    assert terms["moving"] == pytest.approx(expected, rel=1e-3)


FROZEN = {"optimiser": {"lr": 1e-12}}


def test_a_weight_may_be_written_as_yaml_takes_for_words():
    assert losses.load("consistency", {"weight": "1e-2"}).settings.weight == 0.01
    assert losses.load("consistency", {"weight": ["1e-2", 0]}).settings.weight == (0.01, 0.0)


@pytest.mark.parametrize("weight", [-1.0, [1.0, -0.1], [1.0], "much"])
def test_a_weight_is_a_number_or_two(weight):
    with pytest.raises(
        ValueError, match=r"recipe key 'losses.consistency.weight': give a number of 0 or more, or two: \[first, last\]"
    ):
        losses.load("consistency", {"weight": weight})


def test_half_an_adversary_is_told(monkeypatch):
    module = SimpleNamespace(Settings=Strict, Loss=Half)
    monkeypatch.setattr(losses, "_import", lambda name: module)
    words = r"'mine.half' has an opponent, but no trains and no optimiser and no build: see"
    with pytest.raises(ValueError, match=words):
        losses.load("mine.half", {})


class Half:
    roles, updates, needs = {}, 1, ()

    def __init__(self, settings):
        pass

    def student(self, batch, nets): ...

    def opponent(self, batch, nets): ...


class Misspelt:
    needs = ("route",)

    def __init__(self, settings):
        pass


def test_a_need_that_no_batch_has_is_told(monkeypatch):
    monkeypatch.setattr(losses, "_import", lambda name: SimpleNamespace(Settings=Strict, Loss=Misspelt))
    with pytest.raises(ValueError, match="'mine' needs 'route', which no batch has: routes or paths or masks"):
        losses.load("mine", {})
