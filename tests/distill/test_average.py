"""A moving average of the student's weights as a stage's result: the closed form of its recurrence on real updates."""

from __future__ import annotations

import pytest
import torch

from hypersd import recipe
from hypersd.distill import train as training
from hypersd.distill.train import train
from hypersd.lora import files
from tests.distill.killer import RECIPE
from tests.distill.runs import whole_and_cut

DECAY, UPDATES = 0.3, 5
PLAIN = {**RECIPE, "ema": None, "optimiser": {"lr": 0.02}}
STILL = {"optimiser.lr": 1e-12}


def weights(out, updates: int, **settings):
    values = {**PLAIN, **settings, "stages": [{"segments": 4, "iterations": updates}]}
    return files.read(train(recipe.parse(values), out / str(len(list(out.iterdir()))))).weights


def test_it_is_the_average_of_the_students_after_each_update(tmp_path):
    """The decay grows up to what was asked: the first of them counts little."""
    students = [weights(tmp_path, updates) for updates in range(1, UPDATES + 1)]
    expected = weights(tmp_path, 1, optimiser={"lr": 1e-12})
    for done, student in enumerate(students):
        decay = min(DECAY, (1 + done) / (10 + done))
        expected = {name: decay * kept + (1 - decay) * student[name] for name, kept in expected.items()}
    got = weights(tmp_path, UPDATES, average=DECAY)
    assert any(not torch.allclose(tensor, students[-1][name], atol=1e-4) for name, tensor in got.items())
    for name, tensor in expected.items():
        torch.testing.assert_close(got[name], tensor, rtol=1e-5, atol=1e-6)


def test_the_next_stage_begins_as_it(tmp_path):
    values = {**PLAIN, "stages": [{"segments": 4, "iterations": 4, "override": {"average": 0.9}}]}
    values["stages"] += [{"segments": 1, "iterations": 1, "override": STILL}]
    last = files.read(train(recipe.parse(values), tmp_path)).weights
    first = files.read(tmp_path / "stage1-4segments.safetensors").weights
    for name, tensor in first.items():
        torch.testing.assert_close(last[name], tensor, rtol=0, atol=1e-6)


@pytest.mark.parametrize("updates", [5, 11])
def test_a_run_goes_on_with_it_bit_for_bit(tmp_path, updates):
    stages = [{"segments": 4, "iterations": 8}, {"segments": 1, "iterations": 8}]
    made = recipe.parse({**RECIPE, "average": 0.9, "checkpoint_every": 3, "stages": stages})
    whole, cut = whole_and_cut(made, tmp_path, updates)
    assert {"student", "target", "average"} <= {name.partition("/")[0] for name in whole}
    assert whole.keys() == cut.keys()
    assert all(torch.equal(tensor, cut[name]) for name, tensor in whole.items())


def test_samples_are_drawn_by_it(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(training, "draw_strip", lambda base, roles, playing, *rest: drawn.append(playing))
    first, second = ({"segments": k, "iterations": 1} for k in (4, 1))
    stages = [{**first, "override": {"average": 0.9}}, second]
    train(recipe.parse({**PLAIN, "sample_every": 1, "sample_prompts": [""], "stages": stages}), tmp_path)
    assert drawn == [("average",), ("student",)]


def test_a_decay_of_1_is_refused():
    with pytest.raises(ValueError, match="recipe key 'average'"):
        recipe.parse({**PLAIN, "average": 1.0})
