"""What stops a run that breaks: the words, what is kept, and that the way on which they tell is one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hypersd import dotted, recipe
from hypersd.distill import checkpoint, parts, remedy, resolve
from hypersd.distill.losses import consistency, score
from hypersd.distill.step import tscd
from hypersd.distill.train import train
from tests.distill.killer import RECIPE
from tests.distill.runs import Cut, losses

OPPOSED = {
    "draw": {"visited_share": 1.0, "samplers": ["ddim"], "steps": [1, 2], "end": "visited"},
    "losses": {"score": {"updates": 2}},
    "micro_batch": None,
}
PLAIN = {**RECIPE, "checkpoint_every": 4, "stages": [{"segments": 4, "iterations": 10}]}


def breaks(monkeypatch, loss, *moments, gradient=False):
    """Makes a loss, or its gradient alone, no number at these shares of the stage."""
    student = loss.student

    def broken(self, batch, nets):
        lost = student(self, batch, nets)
        if batch.progress not in moments:
            return lost
        return lost + (lost - lost.detach()).sqrt() if gradient else lost * torch.nan  # 0, and its gradient 1 / 0

    monkeypatch.setattr(loss, "student", broken)


def same(one: Path, two: Path) -> bool:
    mine, theirs = (checkpoint.read(folder).tensors for folder in (one, two))
    return mine.keys() == theirs.keys() and all(torch.equal(tensor, theirs[name]) for name, tensor in mine.items())


def test_a_checkpoint_is_of_weights_whose_loss_was_a_number(tmp_path, monkeypatch):
    """What the eighth update made is first looked at by the ninth: it would break again as soon as it is resumed."""
    made, out = recipe.parse(PLAIN), tmp_path / "run"
    with monkeypatch.context() as patched:
        breaks(patched, consistency.Loss, 0.8)
        words = (
            "'consistency' became nan in stage 1 at iteration 8; --resume goes on from iteration 4 of stage 1 with a"
        )
        with pytest.raises(FloatingPointError, match=words):
            train(made, out)
    assert checkpoint.read(out).progress == checkpoint.Progress(0, 4)
    assert not list(out.glob(".*"))
    train(made, out, resume=True)
    train(made, tmp_path / "whole")
    assert same(out, tmp_path / "whole")


def test_a_broken_run_goes_on_with_a_lower_rate(tmp_path):
    """As the one that had it from the beginning."""

    def made(rate):
        stages = [{"segments": 4, "iterations": 3}, {"segments": 1, "iterations": 3}]
        stages[1]["override"] = {"optimiser.lr": rate, "optimiser.max_norm": 1e30}
        return recipe.parse({**RECIPE, "checkpoint_every": 1, "stages": stages})

    words = r"--resume goes on from iteration 0 of stage 2 with a lower optimiser.lr \(stages.1.override has its own\)$"
    with pytest.raises(FloatingPointError, match=words):
        train(made(1e30), tmp_path / "run")
    with pytest.warns(UserWarning, match="another learning rate"):
        train(made(0.02), tmp_path / "run", resume=True)
    train(made(0.02), tmp_path / "whole")
    assert same(tmp_path / "run", tmp_path / "whole")
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


@pytest.mark.parametrize("iterations", [1, 20])
def test_weights_that_are_blown_up_are_not_kept_though_the_loss_is_a_number(tmp_path, iterations):
    """The toy's next batch looks at other rows of its table."""
    stages = [{"segments": 4, "iterations": iterations}]
    made = recipe.parse({**RECIPE, "optimiser": {"lr": 1e30}, "checkpoint_every": 1, "stages": stages})
    words = r"the weights of 'student' grew to .*, from 0.379 .* at iteration 1; begin anew with a lower optimiser.lr$"
    with pytest.raises(FloatingPointError, match=words):
        train(made, tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["log.jsonl", "recipe.json"]


@pytest.mark.parametrize("gradient", [False, True])
def test_a_stages_last_weights_are_looked_at_by_the_next_stage(tmp_path, monkeypatch, gradient):
    breaks(monkeypatch, score.Loss, 0.0, gradient=gradient)
    opposed = {key: OPPOSED[key] for key in ("draw", "losses")}
    values = {**PLAIN, "stages": [*PLAIN["stages"], {"segments": 1, "iterations": 1, "override": opposed}]}
    words = r"'score' became .* in stage 2 at iteration 0; --resume goes on from iteration 8 of stage 1"
    with pytest.raises(FloatingPointError, match=words):
        train(recipe.parse(values), tmp_path)
    assert checkpoint.read(tmp_path).progress == checkpoint.Progress(0, 8)


@pytest.mark.parametrize("broken", [consistency, score])
def test_the_loss_whose_gradient_alone_breaks_is_named(tmp_path, monkeypatch, broken):
    """All share one backward pass; the opponent has not moved yet."""
    breaks(monkeypatch, broken.Loss, 0.4, gradient=True)
    name = broken.__name__.rpartition(".")[2]
    values = {**PLAIN, **OPPOSED, "losses": {"score": {}, "consistency": {}}}
    with pytest.raises(FloatingPointError, match=f"the gradient of the loss '{name}' became .* at iteration 4; begin"):
        train(recipe.parse(values), tmp_path)
    assert len(losses(tmp_path)) == 4


def test_a_gradient_that_is_no_number_stops_the_run(tmp_path, monkeypatch):
    """Even where the loss is one: weights of NaN would be saved, and never go on."""

    def student(self, batch, nets):
        x_end = nets.once(tscd, batch).x_end
        return (x_end - x_end.detach()).square().sum().sqrt()  # 0, with the gradient 0 / 0

    monkeypatch.setattr("hypersd.distill.losses.consistency.Loss.student", student)
    made = recipe.parse({**RECIPE, "ema": None, "stages": [{"segments": 4, "iterations": 3}]})
    with pytest.raises(
        FloatingPointError, match="the gradient of the loss 'consistency' became nan in stage 1 at iteration 0"
    ):
        train(made, tmp_path / "run")
    assert not (tmp_path / "run" / checkpoint.NAME).exists()


def test_a_loss_that_explodes_stops_the_run_and_says_where(tmp_path):
    made = recipe.parse({**RECIPE, "optimiser": {"lr": 1e30, "max_norm": 1e30}})
    with pytest.raises(FloatingPointError, match=r"stage 1 at iteration .*lower optimiser.lr$"):
        train(made, tmp_path / "run")
    stages = [{"segments": 1, "iterations": 20, "override": {"optimiser.lr": 1e30}}]
    made = recipe.parse({**RECIPE, "optimiser": {"max_norm": 1e30}, "stages": stages})
    with pytest.raises(FloatingPointError, match=r"lower optimiser.lr \(stages.0.override has its own\)$"):
        train(made, tmp_path / "own")


@pytest.mark.parametrize(
    ("override", "own"),
    [
        ({"losses.score.weight": 0.5}, False),
        ({"losses.score.fake": {"betas": [0, 0.9]}}, True),
        ({"losses": {"score": {}}}, True),
        ({"optimiser.lr": 1e-3}, False),
    ],
)
def test_a_stage_is_said_to_have_a_rate_of_its_own_only_where_it_has(override, own):
    stage = recipe.Stage(segments=1, iterations=1, override=override)
    said = remedy._overridden(stage, 0, "losses.score.fake.lr")
    assert said == " (stages.0.override has its own)" * own


@pytest.mark.parametrize(("name", "settings"), [("score", {}), ("adversarial", {"of": "jump", "width": 4})])
def test_the_key_that_is_named_for_an_opponent_may_be_lowered(tmp_path, name, settings):
    """Though the recipe left it out: with what it then has, nothing else is another."""
    values = {**RECIPE, **OPPOSED, "losses": {name: settings}, "stages": [{"segments": 1, "iterations": 2}]}
    made = recipe.parse({**values, "checkpoint_every": 1})
    with pytest.raises(KeyboardInterrupt):
        train(made, tmp_path, watch=Cut(2))
    key = parts.StageParts.rate_key(SimpleNamespace(losses=resolve.losses(made)), name)
    lowered = made.model_dump(mode="json")
    dotted.put(lowered, key, 1e-7)
    with pytest.warns(UserWarning, match="goes on at another learning rate"):
        train(recipe.parse(lowered), tmp_path, resume=True)


def test_a_teacher_that_is_no_number_stops_the_run(tmp_path, monkeypatch):
    def broken(*args):
        return lambda x, t: (x * torch.nan, x)

    monkeypatch.setattr(score, "bind", broken)
    made = recipe.parse({**RECIPE, **OPPOSED, "stages": [{"segments": 1, "iterations": 2}]})
    with pytest.raises(FloatingPointError, match="the loss 'score' became nan in stage 1 at iteration 0"):
        train(made, tmp_path)


def test_an_opponent_that_explodes_stops_it_too(tmp_path, monkeypatch):
    made = recipe.parse({**RECIPE, **OPPOSED, "stages": [{"segments": 1, "iterations": 40}]})
    learn, calls = score.Loss.opponent, []

    def exploding(self, batch, nets):
        calls.append(batch)
        return learn(self, batch, nets) * (1e9 if len(calls) > 60 else 1.0)

    monkeypatch.setattr(score.Loss, "opponent", exploding)
    with pytest.raises(FloatingPointError, match=r"'score, opponent' grew .* a lower losses.score.fake.lr"):
        train(made, tmp_path / "run")
