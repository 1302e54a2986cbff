"""Chords of their own: for every number of steps (`grids.step_code`), or for a single one (`grids.begun`)."""

from __future__ import annotations

import pytest
import torch

from hypersd import bases, recipe
from hypersd.diffusion import samplers
from hypersd.diffusion.grids import step_code, trailing
from hypersd.diffusion.segments import Segments
from hypersd.diffusion.solver import ode_walk
from hypersd.distill.randomness import generators
from hypersd.distill.rollout import rollout
from hypersd.distill.step import STUDENT, Nets, draw_batch
from hypersd.distill.train import train
from hypersd.draw.pipeline import Drawer, Settings, bind, settings_for
from hypersd.lora.roles import Roles
from hypersd.recipe import Draw
from tests.loras import write_lora
from tests.shapes import unchecked

STEPS = (1, 2, 4)
RECIPE = {
    "name": "coded",
    "base": "toy",
    "data": {"kind": "paths", "pool": 32},
    "lora": {"rank": 1, "dtype": "fp32"},
    "teacher": {"guidance": [1, 1], "substeps": 5},
    "draw": {"points": 8, "end": "visited", "visited_share": 1.0, "samplers": ["ddim"], "steps": STEPS},
    "optimiser": {"lr": 0.02, "betas": [0.9, 0.99], "decay": "cosine", "max_norm": 1e9},
    "losses": {"rollout": {"distance": "mse"}},
    "batch": 4,
    "stages": [{"segments": 1, "iterations": 250}],
}


HOW = {"shared": {}, "coded": {"step_code": 3}, "one lower": {"one_step": 700}}
"""The first jump: one for all, one for each number of steps, one for a single step and one for the others."""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """By the kind of first jump, the drawings' standard deviation at each number of steps; and the teacher's."""
    folder, found = tmp_path_factory.mktemp("coded"), {}
    for kind, sampler in HOW.items():
        with unchecked():
            made = train(recipe.parse({**RECIPE, "sampler": sampler}), folder / kind)
        drawer = Drawer(bases.load("toy", "cpu"), made)
        ways = [settings_for(drawer.made, n) for n in STEPS]
        found[kind] = [float(drawer.latents([""] * 64, range(64), way).std()) for way in ways]
    toy = bases.load("toy", "cpu")
    cond = toy.encode([""] * 64)
    noise = torch.stack([torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(64)])
    teacher = ode_walk(toy.schedule, bind(toy, cond, cond, 1.0), noise, [*trailing(40), -1])
    return found, float(teacher.std())


def test_one_chord_for_all_is_a_compromise_and_coded_chords_are_none(drawn):
    """The teacher's own map at every number of steps; without the code one step is off, and others pay for it."""
    found, teacher = drawn
    apart = {kind: [abs(std / teacher - 1) for std in stds] for kind, stds in found.items()}
    assert max(apart["coded"]) < 0.01
    assert max(apart["shared"]) > 0.05
    assert apart["one lower"][0] < 0.01  # and two and four still share one
    assert max(apart["one lower"]) < max(apart["shared"])


def test_the_network_is_told_less_and_the_jump_keeps_its_t(monkeypatch):
    """In training and in drawing alike: the prediction of t − code (N − 1), split and jumped at t."""
    toy = bases.load("toy", "cpu")
    seen = []
    monkeypatch.setattr(toy.unet, "forward", lambda x, t: seen.append(t.tolist()) or torch.zeros_like(x))
    roles = Roles(toy.unet)
    roles.add(STUDENT, 1, toy.lora_targets)
    draw = Draw(end="visited", visited_share=1.0, steps=(1, 4), samplers=("ddim",))
    visited = [trailing(1), trailing(4)]
    rngs = generators(0, 0, 0, range(16))
    batch = draw_batch(toy, torch.zeros(16, 1, 8, 8), toy.encode([""] * 16), rngs, Segments(1), draw, visited, (1, 1))
    object.__setattr__(batch, "code", 5)
    jumps = rollout(batch, Nets(toy, roles)).jumps
    four = (batch.route >= 0).sum(1) == 4
    assert seen[0] == [984 if long else 999 for long in four.tolist()]
    assert seen[1:] == [[t - 15] * int(four.sum()) for t in (749, 499, 249)]
    assert jumps[0].t.unique().tolist() == [999]
    expected = batch.eps / toy.schedule.alpha[999]  # ε = 0, so x0 = x_t / α_t at the true t
    torch.testing.assert_close(jumps[0].x0, expected)


def test_the_lora_says_its_code_and_is_drawn_by_it(drawn, tmp_path):
    made = recipe.parse({**RECIPE, "sampler": {"step_code": 3}, "stages": [{"segments": 1, "iterations": 1}]})
    drawer = Drawer(bases.load("toy", "cpu"), train(made, tmp_path / "run"))
    assert [drawer.code(n) for n in (1, 2, 4, 8)] == [0, 3, 9, 21]
    assert Drawer(bases.load("toy", "cpu")).code(8) == 0
    assert step_code(8, 0) == 0


def test_one_step_begins_where_the_lora_says(tiny_base, tmp_path):
    """Whoever draws it, by settings of theirs or by its own; more steps, and the base alone, begin as ever."""
    drawer = Drawer(tiny_base, write_lora(tiny_base, tmp_path / "lora.safetensors", sampler={"one_step": 700}))
    ddim = samplers.load("ddim")
    assert drawer.grid(ddim, Settings(1)) == drawer.grid(ddim, settings_for(drawer.made, 1, "tcd")) == [700]
    assert drawer.grid(ddim, Settings(1, sampler_settings={"one_step": 800})) == [800]
    assert drawer.grid(ddim, Settings(2)) == [999, 499]
    assert settings_for(drawer.made, 2).sampler_settings == {}
    assert Drawer(bases.load("toy", "cpu")).grid(ddim, Settings(1)) == [999]


def test_a_sampler_that_is_given_begins_where_it_does_itself(tiny_base, tmp_path):
    """Whatever the LoRA's header says."""
    drawer = Drawer(tiny_base, write_lora(tiny_base, tmp_path / "lora.safetensors", sampler={"one_step": 700}))
    named = drawer.latents(["a fox"], [0], Settings(1, sampler_settings={"one_step": 800}))
    given = drawer.latents(["a fox"], [0], Settings(1), sampler=samplers.load("ddim", one_step=800))
    assert torch.equal(given, named)
    assert not torch.equal(drawer.latents(["a fox"], [0], Settings(1)), named)


@pytest.mark.parametrize("said", ["700", float("nan"), float("inf"), -1, 0.5])
def test_a_header_that_names_no_timestep_is_told(tiny_base, tmp_path, said):
    drawer = Drawer(tiny_base, write_lora(tiny_base, tmp_path / "lora.safetensors", sampler={"one_step": said}))
    with pytest.raises(ValueError, match="one_step must be a timestep, a whole number of 0 or more"):
        drawer.latents(["a fox"], [0], Settings(1))


@pytest.mark.parametrize(
    ("changed", "remedy"),
    [
        ({"draw": {"visited_share": 0.5}}, r"set draw.visited_share=1 in stage 1"),
        ({"sampler": {"step_code": -1}}, "greater than or equal to 0"),
        ({"sampler": {"step_code": 1000}}, "less than or equal to 100"),
    ],
)
def test_a_code_needs_to_know_the_steps(changed, remedy):
    with pytest.raises(ValueError, match=remedy):
        recipe.parse({**RECIPE, "sampler": {"step_code": 3}, **changed})
