"""Paths of the teacher: what is read from them is what the teacher would compute."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hypersd import bases, recipe
from hypersd.diffusion.segments import Segments
from hypersd.distill import losses, paths, resolve
from hypersd.distill.data import Captioned, read_latents
from hypersd.distill.randomness import generators
from hypersd.distill.step import Nets, draw_batch, tscd
from hypersd.lora.roles import Roles
from hypersd.recipe import Draw, Teacher

RECIPES = Path(__file__).parents[2] / "recipes"
TEACHER = Teacher(guidance=(1.0, 1.0), substeps=5)
VISITED = [[999], [999, 499], [999, 749, 499, 249], [999, 874, 749, 624, 499, 374, 249, 124]]


@pytest.fixture
def toy():
    return bases.load("toy", "cpu", std=0.5)


@pytest.fixture
def kept(toy, tmp_path) -> Captioned:
    return paths.load(toy, paths.Settings(pool=32, batch=12), TEACHER, 8, tmp_path)


def draw(toy, kept, size=48, k=1, **settings):
    rngs = generators(0, 0, 0, range(size))
    drawn = kept.draw(rngs)
    x0, cond = drawn.latents, drawn.cond
    how = Draw(points=8, end="visited", visited_share=1.0, **settings)
    return draw_batch(toy, x0, cond, rngs, Segments(k, 8), how, VISITED, (1.0, 1.0))


def test_a_path_is_the_teachers_walk_of_many_small_steps(toy, kept):
    """Five substeps on 8 points are the 40-point DDIM walk, whose gain on N(0, .5²) is known (.4714)."""
    ends = kept.latents[:, 0].float() / kept.latents[:, -1].float()
    torch.testing.assert_close(ends, torch.full_like(ends, 0.4714), rtol=2e-3, atol=1e-3)


def test_the_teachers_step_is_read_from_the_path(toy, kept):
    """Computing it from the same point gives the same, up to the fp16 of the file."""
    roles = Roles(toy.unet)
    roles.add("student", 1, toy.lora_targets)
    nets, batch = Nets(toy, roles, substeps=5), draw(toy, kept, k=8)
    read = nets.teacher_step(batch)
    computed = nets.teacher_step(type(batch)(**{**vars(batch), "path": None}))
    torch.testing.assert_close(read, computed, rtol=1e-2, atol=5e-3)
    assert torch.equal(tscd(batch, nets).target, read)  # of 8 segments on 8 points, each is one step long


def test_regression_is_the_distance_to_the_paths_end(toy, kept):
    """An untrained student is the teacher's chord: for a segment's whole length its miss is known."""
    roles = Roles(toy.unet)
    roles.add("student", 1, toy.lora_targets)
    batch = draw(toy, kept)
    loss = losses.load("regression", {"distance": "mse"}).student(batch, Nets(toy, roles))
    eps = toy.data.eps(batch.x_t, batch.t)
    alpha, sigma = toy.schedule.at(batch.t, 4)
    chord = toy.schedule.add_noise((batch.x_t - sigma * eps) / alpha, eps, batch.end)
    assert loss.item() == pytest.approx(float((chord - batch.on_path(batch.end)).square().mean()), rel=1e-3)
    assert loss > 1e-3
    assert {(999, -1), (999, 499), (999, 749), (999, 874)} <= set(
        zip(batch.t.tolist(), batch.end.tolist(), strict=True)
    )


def test_paths_do_not_depend_on_the_batch_they_were_walked_in(toy, kept, tmp_path):
    again = paths.load(toy, paths.Settings(pool=32, batch=32), TEACHER, 8, tmp_path / "other")
    torch.testing.assert_close(again.latents, kept.latents, rtol=1e-3, atol=1e-3)


def test_paths_are_walked_once(toy, kept, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "walk", None)
    assert torch.equal(paths.load(toy, paths.Settings(pool=32), TEACHER, 8, tmp_path).latents, kept.latents)
    (file,) = tmp_path.glob("paths-*.safetensors")
    assert len(read_latents(file)[1]) == 32


def test_whoever_waits_is_told_how_far_it_is(toy, tmp_path):
    told: list[str] = []
    paths.load(toy, paths.Settings(pool=20, batch=2), TEACHER, 8, tmp_path, told.append)
    assert told == [f"walking the teacher's paths, once: {done} of 20" for done in (0, 16)]


def test_another_bases_paths_are_not_taken_for_ones_own(toy, kept, tmp_path):
    """Even under the same name: a base may be trained on."""
    with torch.no_grad():
        toy.unet.table.weight.mul_(0.99)
    paths.load(toy, paths.Settings(pool=32), TEACHER, 8, tmp_path)
    assert len(list(tmp_path.glob("paths-*.safetensors"))) == 2


def test_a_single_step_is_taught_the_end_of_a_path_of_its_own_guidance(tiny_base, tmp_path):
    """From the same noise; what is drawn in more steps ends where its own path does."""
    (prompts := tmp_path / "prompts.txt").write_text("a cat\na dog")
    strong, mild = Teacher(guidance=(5.0, 5.0)), Teacher(guidance=(3.0, 3.0))
    how = {"prompts": prompts, "pool": 8}
    forked = paths.load(tiny_base, paths.Settings(**how, one_step_guidance=3.0), strong, 8, tmp_path)
    plain, milder = (paths.load(tiny_base, paths.Settings(**how), teacher, 8, tmp_path) for teacher in (strong, mild))
    drawn, own, other = (kept.draw(generators(0, 0, 0, range(16))) for kept in (forked, plain, milder))
    assert torch.equal(drawn.latents, own.latents)
    assert torch.equal(drawn.one_step, other.latents[:, 0])
    assert not torch.allclose(drawn.one_step, own.latents[:, 0], atol=1e-2)

    rngs, visits = generators(0, 1, 0, range(16)), Draw(points=8, end="visited", visited_share=1.0)
    batch = draw_batch(
        tiny_base, drawn.latents, drawn.cond, rngs, Segments(1, 8), visits, VISITED, (5.0, 5.0), one_step=drawn.one_step
    )
    alone = (batch.route >= 0).sum(1) == 1
    assert 0 < alone.sum() < 16
    for ends in (batch.x0, batch.path[:, 0]):
        assert torch.equal(ends[alone], drawn.one_step[alone])
        assert torch.equal(ends[~alone], own.latents[~alone, 0])
    assert torch.equal(batch.path[:, 1:], own.latents[:, 1:])


def test_held_out_paths_keep_the_end_of_a_single_step(toy, tmp_path):
    settings = paths.Settings(pool=8, held=2, one_step_guidance=2.0)
    held = paths.load(toy, settings, TEACHER, 8, tmp_path).held
    assert held.draw(generators(0, 0, 0, range(4))).one_step.shape == (4, *toy.latent_shape())


def test_an_end_that_nothing_asks_for_is_said(recwarn):
    asked = {"name": "x", "base": "toy", "data": {"kind": "paths", "one_step_guidance": 2.0}}
    asked |= {"draw": {"points": 8, "end": "visited", "visited_share": 1.0, "samplers": ["ddim"], "steps": [1, 2]}}
    stages = [{"segments": 1, "iterations": 1}]
    resolve.check(recipe.parse({**asked, "stages": stages, "losses": {"rollout": {}}}))
    assert not recwarn
    with pytest.warns(UserWarning, match=r"data\.one_step_guidance changes nothing: .*set draw\.visited_share=1"):
        resolve.check(recipe.parse({**asked, "stages": stages, "losses": {"consistency": {}, "score": {}}}))


@pytest.mark.parametrize("wrong", [0.5, float("inf"), float("nan")])
def test_a_guidance_that_is_none_is_refused_before_an_hour_is_walked(wrong):
    with pytest.raises(ValueError, match=r"data\.one_step_guidance"):
        recipe.check(paths.Settings, {"one_step_guidance": wrong}, "data")


def test_null_takes_a_key_out_of_the_data():
    file = RECIPES / "emoji.yaml"
    found = recipe.load(file, ["data={kind: prompts, one_step_guidance: null}"])
    assert found.data == {"kind": "prompts"}
    assert recipe.load(file, ["data.one_step_guidance=null"]).data == {"kind": "paths", "pool": 12288, "held": 128}


def test_a_timestep_between_two_points_is_refused(toy, kept):
    batch = draw(toy, kept)
    with pytest.raises(ValueError, match=r"paths of 8 points do not pass timestep 759: set draw.end"):
        batch.on_path(torch.full_like(batch.t, 759))


def test_regression_without_paths_says_what_to_set(toy):
    roles = Roles(toy.unet)
    roles.add("student", 1, toy.lora_targets)
    x0 = torch.zeros(4, 1, 8, 8)
    batch = draw_batch(
        toy, x0, toy.encode([""] * 4), generators(0, 0, 0, range(4)), Segments(1), Draw(), [], (1.0, 1.0)
    )
    with pytest.raises(ValueError, match=r"set data=\{kind: paths\}"):
        losses.load("regression", {}).student(batch, Nets(toy, roles))
