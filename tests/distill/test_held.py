"""Samples that are held out: they change nothing, and their loss is logged."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from hypersd import bases, recipe
from hypersd.distill.data import Captioned
from hypersd.distill.train import train
from hypersd.distill.watch import Silent
from tests.distill.runs import contents

RECIPE = {
    "name": "held",
    "base": "toy",
    "lora": {"rank": 1, "dtype": "fp32"},
    "teacher": {"guidance": [1, 1]},
    "losses": {"consistency": {}},
    "batch": 8,
    "checkpoint_every": 2,
    "stages": [{"segments": 8, "iterations": 5}, {"segments": 4, "iterations": 2}],
}


class Heard(Silent):
    def __init__(self):
        self.said = []

    def note(self, text):
        self.said.append(text)


def made(path, latents, weight, **settings):
    captions = json.dumps([[""]] * len(latents))
    save_file({"latents": latents, "weight": weight}, path, {"captions": captions})
    return recipe.parse({**RECIPE, "data": {"kind": "latents", "path": str(path), **settings}})


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One that holds four samples out, far larger than the others, and one for which those have no weight."""
    folder, weight = tmp_path_factory.mktemp("held"), torch.ones(12)
    out = Captioned(bases.load("toy", "cpu"), weight, [], weight, held=4).held.heap.diff(prepend=torch.zeros(1)) > 0
    latents = 0.3 * torch.randn(12, 1, 8, 8) * torch.where(out, 100, 1).view(-1, 1, 1, 1)
    heard = {name: Heard() for name in ("alone", "held")}
    train(made(folder / "alone.safetensors", latents, weight * ~out), folder / "alone", watch=heard["alone"])
    train(made(folder / "held.safetensors", latents, weight, held=4), folder / "held", watch=heard["held"])
    return folder, {name: one.said for name, one in heard.items()}


def lines(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_training_is_as_if_they_were_not_there(runs):
    folder, _ = runs
    alone, held = (contents(folder / name / "lora.safetensors")[0] for name in ("alone", "held"))
    assert all(torch.equal(tensor, held[name]) for name, tensor in alone.items())
    assert [line["loss"] for line in lines(folder / "alone")] == [line["loss"] for line in lines(folder / "held")]


def test_their_loss_is_logged_as_often_as_a_checkpoint_is_made_and_at_each_stages_end(runs):
    folder, _ = runs
    tested = [line for line in lines(folder / "held") if "held" in line]
    assert [(line["stage"], line["iteration"]) for line in tested] == [(0, 1), (0, 3), (0, 4), (1, 1)]
    assert not any("held" in line for line in lines(folder / "alone"))
    assert all(line["held"]["consistency"] > 2 * line["trained"]["consistency"] for line in tested)


def test_who_waits_is_told_where_the_two_part(runs):
    _, said = runs
    (words,) = [words for words in said["held"] if "held out" in words]
    assert words.startswith("stage 1: samples that were held out are missed by")
    assert not any("held out" in words for words in said["alone"])


def test_a_run_goes_on_where_it_was_cut(runs, tmp_path):
    """With the same tests: they are drawn apart from what is trained on."""
    folder, _ = runs

    class Cut(Silent):
        def update(self, iteration, loss, lr):
            if iteration == 4:
                raise KeyboardInterrupt

    asked = recipe.parse({**RECIPE, "data": {"kind": "latents", "path": str(folder / "held.safetensors"), "held": 4}})
    with pytest.raises(KeyboardInterrupt):
        train(asked, tmp_path / "cut", watch=Cut())
    train(asked, tmp_path / "cut", resume=True)
    assert [line.get("held") for line in lines(tmp_path / "cut")] == [
        line.get("held") for line in lines(folder / "held")
    ]
