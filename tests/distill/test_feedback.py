"""Human feedback: who is pleased, by which gradient, how far, and who notices."""

from __future__ import annotations

import copy
import json
import math
import re
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from diffusers.models.unets.unet_2d_blocks import UNetMidBlock2D
from torch.nn import functional as F

from hypersd import bases, recipe
from hypersd.diffusion.segments import Segments
from hypersd.distill import losses, resolve
from hypersd.distill.randomness import generators
from hypersd.distill.rollout import before_last, last_jump, rollout
from hypersd.distill.step import BENEATH, STUDENT, Nets, draw_batch
from hypersd.distill.train import train
from hypersd.distill.watch import Silent
from hypersd.draw.pipeline import Drawer, Settings
from hypersd.lora import files
from hypersd.lora.roles import Roles
from hypersd.recipe import Draw
from tests.distill.bold import BOLD, FAINT
from tests.distill.runs import Cut, whole_and_cut

ROOT = Path(__file__).parents[2]
SETTINGS = {"judges": {BOLD: {"target": 0.6, "weight": 2.0}}, "watch": {FAINT: {}}}


def batch_of(base, size=12):
    rngs, x0 = generators(0, 0, 0, range(size)), torch.zeros(size, *base.latent_shape())
    draw, routes = Draw(end="visited", visited_share=1.0), [[999], [999, 749, 249]]
    batch = draw_batch(base, x0, base.encode(["a cat"] * size), rngs, Segments(1), draw, routes, (1.0, 1.0))
    object.__setattr__(batch, "prompts", ("a cat",) * size)
    return batch


def student(base, rank=2, seed=0):
    roles = Roles(base.unet)
    roles.add(STUDENT, rank, base.lora_targets)
    generator, shapes = torch.Generator().manual_seed(seed), roles.state(STUDENT)
    roles.load(STUDENT, {k: 0.2 * torch.randn(v.shape, generator=generator) for k, v in shapes.items()})
    return roles


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_gradient_is_the_last_jumps_alone(tiny_base, checkpointing):
    """Of the hinge, written out on a network of its own: what came before the last jump is a given."""
    plain = copy.deepcopy(tiny_base)
    roles = student(tiny_base)
    if checkpointing:
        tiny_base.unet.train().enable_gradient_checkpointing(roles.checkpoint)
    nets, batch = Nets(tiny_base, roles), batch_of(tiny_base)
    losses.load("feedback", SETTINGS).student(batch, nets).backward()
    got = [parameter.grad for parameter in roles.parameters(STUDENT).values()]
    assert all(parameter.grad is None for name, parameter in tiny_base.unet.named_parameters() if "lora_" not in name)

    x, t = before_last(batch, nets)
    assert sorted(set(t.tolist())) == [249, 999]
    apart = student(plain)
    with apart.play(STUDENT):
        x0, eps = plain.predict(x, t, batch.cond)
    pictures = plain.to_images(plain.schedule.add_noise(x0, eps, torch.full_like(t, -1)))
    lost = 2.0 * F.relu(0.6 - pictures.square().mean((1, 2, 3))).mean()
    expected = torch.autograd.grad(lost, list(apart.parameters(STUDENT).values()))
    assert lost > 0
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-6)
    assert nets.scores[BOLD] == -nets.scores[FAINT]


def test_a_judge_may_be_asked_for_the_prompt_against_others(tiny_base):
    """One that never looks at the prompt is sure of it by half beside one other, and cannot be pleased."""
    roles, asked = student(tiny_base), {"target": 0.0, "against": [["cat", "dog"]], "temperature": 0.1}
    nets, batch = Nets(tiny_base, roles), batch_of(tiny_base)
    loss = losses.load("feedback", {"judges": {BOLD: asked}, "watch": {FAINT: {"against": [["a", "the", "some"]]}}})
    lost = loss.student(batch, nets)
    lost.backward()
    assert lost.item() == pytest.approx(math.log(2), rel=1e-5)
    assert nets.scores[FAINT] / 12 == pytest.approx(-math.log(3), rel=1e-5)
    assert all(parameter.grad.abs().max() < 1e-6 for parameter in roles.parameters(STUDENT).values())


def test_the_last_jump_ends_where_a_rollout_does(tiny_base):
    nets, batch = Nets(tiny_base, student(tiny_base)), batch_of(tiny_base)
    torch.testing.assert_close(last_jump(batch, nets), rollout(batch, nets).final)


RECIPE = {
    "name": "feedback",
    "base": "toy",
    "data": {"kind": "gaussian"},
    "lora": {"rank": 1, "dtype": "fp32"},
    "teacher": {"guidance": [1, 1]},
    "draw": {"end": "visited", "visited_share": 1.0, "samplers": ["ddim"], "steps": [1]},
    "optimiser": {"lr": 0.002, "betas": [0.0, 0.999]},
    "losses": {"feedback": SETTINGS | {"window": 10}},
    "batch": 8,
    "stages": [{"segments": 1, "iterations": 120}],
}


class Heard(Silent):
    def __init__(self):
        self.said = []

    def note(self, text):
        self.said.append(text)


def boldness(lora=None):
    drawer = Drawer(bases.load("toy", "cpu"), lora)
    return float(drawer.draw([""] * 64, range(64), Settings(steps=1)).square().mean())


def test_pictures_become_as_bold_as_was_asked_and_the_other_judge_says_so(tmp_path):
    """The toy's judge likes large latents; the hinge leaves a picture alone once it is bold enough."""
    values = {**RECIPE, "losses": {"feedback": {**RECIPE["losses"]["feedback"], "judges": {BOLD: {"target": 0.3}}}}}
    heard = Heard()
    lora = train(recipe.parse(values), tmp_path / "run", watch=heard)
    assert boldness() < 0.05
    assert 0.3 < boldness(lora) < 0.7
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert lines[0]["loss"] > 0.25
    assert lines[-1]["loss"] < 0.01  # good enough, and left alone
    assert lines[-1]["scores"][BOLD] == pytest.approx(-lines[-1]["scores"][FAINT])
    assert any(f"{FAINT} fell from" in said and f"while {BOLD} rose" in said for said in heard.said)
    told = [line["told"] for line in lines if "told" in line]
    assert len(told) == len(lines) // RECIPE["losses"]["feedback"]["window"]
    assert told[-1] == files.read(lora).told != ""
    best = tmp_path / "run" / "best.safetensors"
    assert files.read(best).told == ""
    before = boldness(best)
    assert before < boldness(lora) - 0.05  # what the judge who looks on liked best


def test_it_stops_where_it_was_asked_to_and_a_resumed_run_too(tmp_path):
    feedback = {**RECIPE["losses"]["feedback"], "stop": True}
    made = recipe.parse({**RECIPE, "losses": {"feedback": feedback}, "checkpoint_every": 15})
    with pytest.raises(FloatingPointError, match=r"stopped: at iteration 19 of stage 1 .* fell .*best.safetensors"):
        train(made, tmp_path / "run")
    with pytest.raises(FloatingPointError, match="stopped: at iteration 19 of stage 1"):
        train(made, tmp_path / "run", resume=True)


def test_the_best_student_is_the_best_of_all_stages_that_are_watched_alike(tmp_path):
    """Here the very first: a new stage, or a run that goes on, does not begin with a best of its own."""
    stages = [{"segments": 1, "iterations": 20}] * 2
    made = recipe.parse({**RECIPE, "stages": stages, "checkpoint_every": 4})
    train(recipe.parse({**RECIPE, "stages": stages[:1]}), tmp_path / "first")
    with pytest.raises(KeyboardInterrupt):
        train(made, tmp_path / "both", watch=Cut(33))  # a window of the second stage is over
    train(made, tmp_path / "both", resume=True)
    first, best = (tmp_path / name / "best.safetensors" for name in ("first", "both"))
    assert boldness(best) == boldness(first) < boldness(tmp_path / "both" / "stage1-1segments.safetensors")


def test_the_best_student_is_kept_as_the_stage_would_be(tmp_path):
    """Averaged, where the stage's result is an average: here that lags behind."""
    best = [tmp_path / name / "best.safetensors" for name in ("average", "plain")]
    for path, average in zip(best, (0.9, None), strict=True):
        train(recipe.parse({**RECIPE, "average": average, "stages": [{"segments": 1, "iterations": 12}]}), path.parent)
    assert boldness() < boldness(best[0]) < 0.9 * boldness(best[1])


@pytest.mark.parametrize(
    ("override", "alike"),
    [
        ([{}, {}], [0, 1]),
        ([{}, {"losses": {"consistency": {}}}], [0]),  # nobody judges in between
        ([{"draw.steps": [2]}, {}], [1]),
        ([{}, {"draw.steps": [2]}], []),  # drawings in two steps are others
        ([{}, {"losses.feedback.watch": {}, "losses.feedback.stop": True}], [0]),
        ([{}, {"losses.feedback.judges": {"emoji-a": {"target": 1}}}], []),
    ],
)
def test_stages_are_watched_alike_where_the_same_judges_see_the_same_drawings(override, alike):
    stages = [{"segments": 1, "iterations": 1, "override": changed} for changed in [*override, {}]]
    assert resolve.watched_alike(recipe.parse({**RECIPE, "stages": stages}), 2) == alike


@pytest.mark.parametrize(
    ("changed", "stages", "words"),
    [
        ({"watch": {}}, (120, 120), "no judge looks on while stage 1 pleases .*: name one"),
        ({"window": 50}, (99,), "windows of 50 iterations, and by the end of stage 1 there were 99: set .*lower"),
        ({"window": 50}, (30, 30), "windows of 50 iterations, and by the end of stage 2 there were 60: set .*lower"),
        ({"window": 50}, (60, 40), None),
    ],
)
def test_judges_that_never_get_to_say_anything_are_noticed(changed, stages, words):
    feedback = {**RECIPE["losses"]["feedback"], **changed}
    asked = [{"segments": 1, "iterations": iterations} for iterations in stages]
    made = recipe.parse({**RECIPE, "losses": {"feedback": feedback}, "stages": asked})
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        resolve.check(made)
    assert len(told) == (words is not None)
    assert all(re.search(words or "", str(warning.message)) for warning in told)


def test_the_decoder_is_run_again_too_where_memory_is_to_be_saved(tiny_folder, tmp_path, monkeypatch):
    """To the same result; its activations are the most that a judge's gradient needs."""
    values = {**RECIPE, "base": str(tiny_folder), "data": {"kind": "prompts", "pool": 8, "steps": 2}, "batch": 2}
    values["stages"] = [{"segments": 1, "iterations": 2}]
    forward, ran = UNetMidBlock2D.forward, []  # of the autoencoder alone
    monkeypatch.setattr(UNetMidBlock2D, "forward", lambda *a, **k: ran.append(on) or forward(*a, **k))
    results = []
    for on in (False, True):
        made = recipe.parse({**values, "gradient_checkpointing": on})
        results.append(files.read(train(made, tmp_path / str(on))).weights)
    assert ran.count(True) == 2 * ran.count(False) == 4
    for name, weight in results[0].items():
        torch.testing.assert_close(results[1][name], weight, rtol=1e-3, atol=1e-5)


def test_a_run_goes_on_with_what_lies_beneath(tmp_path):
    below = {**RECIPE, "losses": {"consistency": {}}, "stages": [{"segments": 1, "iterations": 2}]}
    first = train(recipe.parse(below), tmp_path / "first")
    above = {**RECIPE, "lora": {**RECIPE["lora"], "beneath": str(first)}, "checkpoint_every": 3}
    made = recipe.parse({**above, "stages": [{"segments": 1, "iterations": 8}]})
    whole, cut = whole_and_cut(made, tmp_path, updates=5)
    assert whole.keys() == cut.keys()
    assert all(torch.equal(tensor, cut[name]) for name, tensor in whole.items())
    shutil.copy(train(recipe.parse({**below, "seed": 1}), tmp_path / "other"), first)
    with pytest.raises(ValueError, match=r"lora\.beneath is not what the run was started with"):
        train(made, tmp_path / "cut", resume=True)


@pytest.mark.parametrize(("key", "value"), [("one_step", 700), ("step_code", 1)])
def test_it_is_trained_to_draw_as_what_lies_beneath_does(tmp_path, key, value):
    """Or one of the two would be drawn as it was never trained."""
    below = {**RECIPE, "losses": {"consistency": {}}, "stages": [{"segments": 1, "iterations": 2}]}
    first = train(recipe.parse({**below, "sampler": {key: value}}), tmp_path / "first")
    above = {**RECIPE, "lora": {**RECIPE["lora"], "beneath": str(first)}}
    with pytest.raises(
        ValueError, match=f"is drawn with {key} {value}, this recipe with .*: set sampler.{key}={value}"
    ):
        train(recipe.parse(above), tmp_path / "second")
    assert not (tmp_path / "second" / "recipe.json").exists()


def test_the_recipe_stands_on_the_bundled_lora():
    made, base = recipe.load(ROOT / "recipes" / "feedback.yaml"), bases.load("emoji", "cpu")
    assert resolve.beneath(made.lora.beneath, made, base).sampler["one_step"] == made.sampler.one_step


@pytest.mark.parametrize("alpha", [None, 6])
def test_what_is_trained_on_a_lora_becomes_one_with_it(tiny_folder, tmp_path, alpha):
    """The finished LoRA stays as it is, the result draws as both, and the stage's file is the new one alone."""
    values = {**RECIPE, "base": str(tiny_folder), "data": {"kind": "prompts", "pool": 8, "steps": 2}, "batch": 4}
    values |= {"losses": {"consistency": {}}, "stages": [{"segments": 1, "iterations": 3}]}
    first = train(recipe.parse({**values, "lora": {"rank": 2, "dtype": "fp32"}}), tmp_path / "first")
    above = {
        "lora": {"rank": 3, "alpha": alpha, "dtype": "fp32", "beneath": str(first)},
        "losses": {"feedback": SETTINGS},
    }
    made = recipe.parse({**values, **above})
    result = files.read(train(made, tmp_path / "second"))
    alone = files.read(tmp_path / "second" / "stage1-1segments.safetensors")
    assert (result.rank, alone.rank) == (5, 3)
    assert (result.on_top_of, alone.on_top_of) == ("", "lora.safetensors")

    base = bases.load(tiny_folder, "cpu")
    roles = Roles(base.unet)
    for role, file in {BENEATH: files.read(first), STUDENT: alone}.items():
        roles.add(role, file.rank, file.targets)
        roles.load(role, file.weights)
    x, t = torch.randn(2, *base.latent_shape()), torch.tensor([999, 499])
    cond = base.encode(["a cat", "a dog"])
    with roles.play(BENEATH, STUDENT):
        expected = base.predict(x, t, cond)[1]
    with roles.play(BENEATH):
        without = base.predict(x, t, cond)[1]
    again = Drawer(bases.load(tiny_folder, "cpu"), tmp_path / "second" / "lora.safetensors")
    with again.on_stage():
        torch.testing.assert_close(again.base.predict(x, t, cond)[1], expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(without, expected, atol=1e-6)
    with pytest.warns(UserWarning, match="stage1-1segments.safetensors is a part alone, trained on top of lora.saf"):
        Drawer(bases.load(tiny_folder, "cpu"), tmp_path / "second" / "stage1-1segments.safetensors")


@pytest.mark.parametrize(
    ("wrong", "remedy"),
    [
        ({"judges": {FAINT: {"target": 1.0}}}, "only judges: take it out"),
        ({"judges": {}}, "losses.feedback.judges"),
        ({"judges": {"nobody": {"target": 1.0}}}, "no judge 'nobody'; there are"),
        ({"judges": {BOLD: {}}}, "lacks 'losses.feedback.judges.*target'"),
        ({"judges": {BOLD: {"target": 0, "against": [["cat"]]}}}, "must be two words or more, no two alike"),
        ({"judges": {BOLD: {"target": 0, "against": [["cat", "dog", "cat"]]}}}, "'cat'.*no two alike"),
        ({"judges": {BOLD: {"target": 0, "against": [["cat", ""]]}}}, "must be two words or more"),
        ({"judges": {BOLD: {"target": 0, "temperature": 0}}}, "temperature"),
    ],
)
def test_who_may_be_pleased(wrong, remedy):
    with pytest.raises(ValueError, match=remedy):
        losses.load("feedback", wrong)


def test_missing_weights_are_told_before_anything_is_written(tmp_path):
    asked = {"judges": {"imagereward": {"target": 2.0, "weights": str(tmp_path)}}}
    with pytest.raises(FileNotFoundError, match=r"has no ImageReward.pt; fetch https"):
        train(recipe.parse({**RECIPE, "losses": {"feedback": asked}}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
