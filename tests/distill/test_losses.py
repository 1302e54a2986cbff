"""What a loss needs of its batches is asked for before a run begins."""

from __future__ import annotations

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


def test_half_an_adversary_is_told(monkeypatch):
    module = SimpleNamespace(Settings=Strict, Loss=Half)
    monkeypatch.setattr(losses, "_import", lambda name: module)
    with pytest.raises(ValueError, match=r"'mine.half' has an opponent, but no optimiser and no build: see"):
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
    with pytest.raises(ValueError, match="'mine' needs 'route', which no batch has: routes or paths"):
        losses.load("mine", {})
