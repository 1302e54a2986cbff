"""What a drawing looks like beside the teacher's picture: whose gradient it is, and what is told before it begins."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from safetensors.torch import save_file

from hypersd import cache, recipe
from hypersd.diffusion.segments import Segments
from hypersd.distill import losses, resolve
from hypersd.distill.randomness import generators
from hypersd.distill.step import STUDENT, Nets, draw_batch
from hypersd.judges.networks import vgg
from hypersd.lora.roles import Roles
from hypersd.recipe import Draw
from tests.distill.bold import LIGHT, MIRROR, TWIN

STAGES = {"stages": [{"segments": 1, "iterations": 1}]}
PATHS = {"data": {"kind": "paths"}, "draw": {"end": "visited", "visited_share": 1.0, "points": 8, "samplers": ["ddim"]}}


def batch_of(base):
    """One drawing in one step, three in two."""
    path = torch.randn(4, 3, *base.latent_shape(), generator=torch.Generator().manual_seed(1))
    draw = Draw(end="visited", visited_share=1.0, pure_noise=1.0, points=2)
    routes, rngs = [[999], [999, 499]], generators(0, 0, 2, range(4))
    return draw_batch(base, path, base.encode(["a cat"] * 4), rngs, Segments(1, 2), draw, routes, (1.0, 1.0))


@pytest.fixture
def nets(tiny_base):
    roles, generator = Roles(tiny_base.unet), torch.Generator().manual_seed(0)
    roles.add(STUDENT, 2, ["to_v", "conv2"])
    state = {k: 0.2 * torch.randn(v.shape, generator=generator) for k, v in roles.state(STUDENT).items()}
    roles.load(STUDENT, state)
    return Nets(tiny_base, roles)


def drawn(base, nets, batch, sample):
    """One sample's whole way from its path's noise, written out."""
    one, x = slice(sample, sample + 1), batch.path[sample : sample + 1, -1]
    for t, end in pairwise(dict.fromkeys(batch.route[sample].tolist())):
        with nets.roles.play(STUDENT):
            x = base.schedule.add_noise(*base.predict(x, torch.tensor([t]), batch.cond[one]), torch.tensor([end]))
    return x


def test_it_is_the_distance_of_two_pictures_with_the_gradient_of_the_whole_drawing(tiny_base, nets):
    batch = batch_of(tiny_base)
    assert sorted(len(set(route)) for route in batch.route.tolist()) == [2, 3, 3, 3]
    got = losses.load("likeness", {"name": TWIN, "weight": 3.0}).student(batch, nets)
    finals = torch.cat([drawn(tiny_base, nets, batch, sample) for sample in range(4)])
    apart = tiny_base.to_images(finals) - tiny_base.to_images(batch.path[:, 0])
    expected = 3.0 * apart.square().mean()
    torch.testing.assert_close(got, expected)
    student = list(nets.roles.parameters(STUDENT).values())
    mine, theirs = (torch.autograd.grad(loss, student) for loss in (got, expected))
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)
    assert max(gradient.abs().max() for gradient in mine) > 1e-3


def test_nobody_else_learns(tiny_base, nets):
    losses.load("likeness", {"name": TWIN}).student(batch_of(tiny_base), nets).backward()
    others = [p for name, p in tiny_base.unet.named_parameters() if "lora_" not in name]
    assert all(parameter.grad is None for parameter in [*others, *tiny_base.vae.parameters()])


def test_the_weight_may_fade(tiny_base, nets):
    loss = losses.load("likeness", {"name": TWIN, "weight": (2.0, 0.0)})
    first, last = (loss.student(replace(batch_of(tiny_base), progress=p), nets) for p in (0.0, 1.0))
    assert first > 0 == last


def test_a_drawing_that_is_the_teachers_costs_nothing(tiny_base, nets):
    batch = batch_of(tiny_base)
    finals = torch.cat([drawn(tiny_base, nets, batch, sample) for sample in range(4)]).detach()
    path = torch.cat([finals[:, None], batch.path[:, 1:]], 1)
    lost = losses.load("likeness", {"name": TWIN}).student(replace(batch, path=path), nets)
    assert lost < 1e-8


def test_in_bfloat16_it_is_the_same_but_for_its_rounding(tiny_base, nets):
    loss = losses.load("likeness", {"name": TWIN})
    expected = loss.student(batch_of(tiny_base), nets)
    tiny_base.autocast = torch.bfloat16
    got = loss.student(batch_of(tiny_base), nets)
    assert got.dtype == torch.float32
    assert got != expected
    torch.testing.assert_close(got, expected, rtol=0.05, atol=0)


def test_each_network_is_for_the_loss_that_has_its_truth():
    with pytest.raises(ValueError, match=r"light' compares no two pictures: set losses\.likeness\.name to one"):
        losses.load("likeness", {"name": LIGHT})
    with pytest.raises(ValueError, match=r"twin' compares pictures, which losses\.likeness does"):
        losses.load("perceptual", {"name": TWIN})


def test_one_that_only_judges():
    with pytest.raises(ValueError, match=r"mirror' only judges: set losses\.likeness\.name to one that may be pleased"):
        losses.load("likeness", {"name": MIRROR})


def test_lpips_itself_from_the_cache_folder(tiny_base, nets, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    torch.manual_seed(0)
    net = vgg.Lpips()
    for head in net.heads:
        head.data.uniform_()
    cache.folder().mkdir()
    save_file(net.state_dict(), cache.folder() / vgg.FILE)
    batch = batch_of(tiny_base)
    got = losses.load("likeness", {}).student(batch, nets)
    finals = torch.cat([drawn(tiny_base, nets, batch, sample) for sample in range(4)])
    with torch.no_grad():
        expected = net(tiny_base.to_images(finals), tiny_base.to_images(batch.path[:, 0])).mean()
    torch.testing.assert_close(got, expected)
    assert all(
        gradient.abs().sum() > 0 for gradient in torch.autograd.grad(got, list(nets.roles.parameters(STUDENT).values()))
    )


def test_it_is_told_what_rollouts_are_told(recwarn):
    """That a single step is taught a milder end, and where a shared first jump should lead."""
    made = {"name": "mine", **STAGES, **PATHS, "losses": {"likeness": {"name": TWIN}, "consistency": {}}}
    made["draw"] = {**PATHS["draw"], "steps": [1, 2, 4]}
    resolve.check(recipe.parse({**made, "data": {"kind": "paths", "one_step_guidance": 3.0}}))
    assert [str(each.message) for each in recwarn] == []


def test_weights_that_were_not_fetched_are_told_before_anything_is_written(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = recipe.parse({"name": "mine", **STAGES, **PATHS, "losses": {"likeness": {}}})
    with pytest.raises(FileNotFoundError) as error:
        resolve.check(made)
    command = "python -m hypersd.evaluate.fetch lpips makes it"
    assert str(error.value) == f"{cache.folder()} has no lpips-vgg16.safetensors; {command}"
    other = recipe.parse({"name": "mine", **STAGES, **PATHS, "losses": {"likeness": {"weights": str(tmp_path)}}})
    with pytest.raises(FileNotFoundError, match=re.escape(f"fetch --cache {tmp_path} lpips makes it")):
        resolve.check(other)


def test_it_needs_paths():
    made = recipe.parse({"name": "mine", **STAGES, "losses": {"likeness": {"name": TWIN}}})
    with pytest.raises(ValueError, match=r"follows the teacher's paths: set data=\{kind: paths\}"):
        resolve.check(made)
