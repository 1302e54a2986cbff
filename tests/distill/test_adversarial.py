"""The adversarial loss: who is trained when, and what the drawings come to on Gaussians."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from hypersd import bases, recipe
from hypersd.diffusion.segments import Segments
from hypersd.distill import losses
from hypersd.distill.discriminator import Discriminator
from hypersd.distill.randomness import generators, shared
from hypersd.distill.step import STUDENT, Nets, draw_batch, noise, tscd
from hypersd.distill.train import train
from hypersd.draw.pipeline import Drawer, Settings
from hypersd.lora import files
from hypersd.lora.roles import Roles
from hypersd.recipe import Draw
from tests.distill.runs import contents

DATA = 0.5
"""Standard deviation of the toy's data."""


def opened(base, **settings):
    """A loss with its heads, and a student of random weights."""
    loss = losses.load("adversarial", settings)
    network, roles = loss.build(base, 0), Roles(base.unet)
    roles.add(STUDENT, 2, base.lora_targets)
    generator = torch.Generator().manual_seed(0)
    shapes = roles.state(STUDENT)
    roles.load(STUDENT, {k: 0.2 * torch.randn(v.shape, generator=generator) for k, v in shapes.items()})
    return loss, network, Nets(base, roles)


def batch_of(base, size=4):
    rngs = generators(0, 0, 0, range(size))
    x0 = torch.randn(size, *base.latent_shape(), generator=torch.Generator().manual_seed(1))
    draw = Draw(end="visited", visited_share=1.0, pure_noise=1.0)
    visited = [[999], [999, 499]]
    return draw_batch(base, x0, base.encode(["a cat"] * size), rngs, Segments(1), draw, visited, (1.0, 1.0))


def gradients(parameters):
    return [None if p.grad is None else p.grad.clone() for p in parameters]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("form", ["hinge", "nonsaturating"])
def test_each_phase_trains_its_own(tiny_base, form, checkpointing):
    """With the gradients of the written-out losses on networks that share nothing."""
    reference = copy.deepcopy(tiny_base)
    loss, heads, nets = opened(tiny_base, form=form, weight=2.0)
    if checkpointing:
        tiny_base.unet.train().enable_gradient_checkpointing(nets.roles.checkpoint)
    student = list(nets.roles.parameters(STUDENT).values())
    batch = batch_of(tiny_base)
    loss.student(batch, nets).backward()
    assert all(p.grad is None for p in heads.parameters())
    of_student = gradients(student)
    assert sum(g.abs().max() > 0 for g in of_student if g is not None) > len(student) / 2

    loss.opponent(batch, nets).backward()
    assert all(p.grad is not None for p in heads.parameters())
    assert all(torch.equal(a, b) for a, b in zip(gradients(student), of_student, strict=True) if a is not None)

    expected_student, expected_heads = by_hand(reference, nets.roles.state(STUDENT), heads, form)
    for got, wanted in zip(of_student, expected_student, strict=True):
        torch.testing.assert_close(got, 2.0 * wanted, rtol=1e-3, atol=1e-6)
    for got, wanted in zip(gradients(heads.parameters()), expected_heads, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-6)


def by_hand(plain, weights, heads, form):
    """The same losses with a student, a backbone and heads of their own."""
    drawing, backbone, heads = copy.deepcopy(plain), plain, copy.deepcopy(heads).requires_grad_(True)
    roles = Roles(drawing.unet)
    roles.add(STUDENT, 2, drawing.lora_targets)
    roles.load(STUDENT, weights)
    batch, schedule = batch_of(plain), plain.schedule
    with roles.play(STUDENT):
        x, t = batch.eps, batch.route[:, 0]
        x0, eps = drawing.predict(x, t, batch.cond)
        half = schedule.add_noise(x0, eps, torch.full_like(t, 499))
        twice = (batch.route[:, 1] == 499).view(-1, 1, 1, 1)
        x0_half, eps_half = drawing.predict(half, torch.full_like(t, 499), batch.cond)
        last = torch.full_like(t, -1)
        final = torch.where(twice, schedule.add_noise(x0_half, eps_half, last), schedule.add_noise(x0, eps, last))

    def votes(x, at):
        noise = torch.stack([torch.randn(4, 8, 8, generator=g) for g in batch.rngs])
        ratio = (schedule.alpha[at] / schedule.alpha[0]).view(-1, 1, 1, 1)
        x_t = ratio * x + (1 - ratio**2).sqrt() * noise
        return heads(backbone.features(x_t, at, batch.cond), [0] * len(heads.pools))

    def level():
        u = torch.stack([torch.rand(1, generator=g, dtype=torch.float64) for g in batch.rngs])[:, 0]
        return (0.75 * u * 1000).long()

    hinge = form == "hinge"
    lost = torch.stack([(-v if hinge else -F.logsigmoid(v)).mean() for v in votes(final, level())]).mean()
    of_student = torch.autograd.grad(lost, list(roles.parameters(STUDENT).values()))
    at = level()
    fake, real = votes(final.detach(), at), votes(batch.x0, at)
    if hinge:
        apart = [(1 - r).clamp(min=0).mean() + (1 + f).clamp(min=0).mean() for r, f in zip(real, fake, strict=True)]
    else:
        apart = [-F.logsigmoid(r).mean() - F.logsigmoid(-f).mean() for r, f in zip(real, fake, strict=True)]
    return of_student, torch.autograd.grad(torch.stack(apart).mean(), list(heads.parameters()))


RECIPE = {
    "name": "adversarial",
    "base": "toy",
    "data": {"kind": "gaussian"},
    "lora": {"rank": 1, "dtype": "fp32"},
    "teacher": {"guidance": [1, 1]},
    "draw": {"end": "visited", "visited_share": 1.0, "samplers": ["ddim"], "steps": [1], "pure_noise": 1.0},
    "optimiser": {"lr": 0.002, "betas": [0.5, 0.99], "decay": "cosine"},
    "losses": {"adversarial": {"weight": 1.0, "width": 16, "heads": {"lr": 0.005, "betas": [0, 0.99]}}},
    "batch": 24,
    "stages": [{"segments": 1, "iterations": 250}],
}


def drawn_std(lora=None) -> float:
    drawer = Drawer(bases.load("toy", "cpu", std=DATA), lora)
    return float(drawer.latents([""] * 64, range(64), Settings(steps=1)).std())


def test_the_drawings_reach_the_data(tmp_path):
    """By a discriminator alone, from the .02 of one undistilled step."""
    assert drawn_std() < 0.05
    assert drawn_std(train(recipe.parse(RECIPE), tmp_path / "run")) == pytest.approx(DATA, rel=0.05)
    line = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])
    assert line["terms"].keys() == {"adversarial", "adversarial, opponent"}


@pytest.mark.parametrize("changed", [{"lora.fold": True}, {"gradient_checkpointing": True, "precision": "bf16"}])
def test_it_trains_a_real_base_in_every_mode(tiny_folder, tmp_path, changed):
    """To what the plain way comes to; in bfloat16 only nearly."""
    modes = [[f"{key}={value}" for key, value in mode.items()] for mode in ({}, changed)]
    values = {**RECIPE, "base": str(tiny_folder), "data": {"kind": "prompts", "pool": 8, "steps": 2}, "batch": 4}
    values |= {"lora": {"rank": 2, "dtype": "fp32"}, "stages": [{"segments": 1, "iterations": 3}]}
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(values))
    plain, other = (
        files.read(train(recipe.load(path, mode), tmp_path / str(index))).weights for index, mode in enumerate(modes)
    )
    heads = load_file(tmp_path / "0" / "stage1-adversarial.safetensors")
    base = bases.load(tiny_folder, "cpu")
    begun = losses.load("adversarial", recipe.parse(values).losses["adversarial"]).build(base, 0).state_dict()
    assert {name: weight.shape for name, weight in heads.items()} == {k: v.shape for k, v in begun.items()}
    assert any(not torch.equal(weight, begun[name]) for name, weight in heads.items())
    moved = sum(weight.square().sum() for name, weight in plain.items() if "lora_B" in name).sqrt()
    apart = sum((other[name] - weight).square().sum() for name, weight in plain.items() if "lora_B" in name).sqrt()
    assert moved > 0
    assert apart / moved < (0.5 if "precision" in changed else 1e-2)


def test_the_file_of_the_heads_says_what_they_are(tmp_path):
    """Enough to build them again, what was left to defaults too."""
    asked = {"of": "jump", "pair": True, "pool": 2, "width": 8}
    override = {"losses.adversarial": asked}
    stages = [{"segments": 4, "iterations": 1, "override": override}]
    train(recipe.parse({**RECIPE, "losses": {"adversarial": {}}, "stages": stages}), tmp_path)
    weights, header = contents(tmp_path / "stage1-adversarial.safetensors")
    about, made, base = (json.loads(header[f"hyper.{key}"]) for key in ("opponent", "recipe", "base"))
    assert about.pop("loss") == "adversarial"
    assert asked.items() <= about.items()
    loss = losses.load("adversarial", about)
    assert loss.settings == losses.load("adversarial", asked).settings
    loss.build(bases.load("toy", "cpu"), 0).load_state_dict(weights)
    assert made["stages"][0]["override"] == override
    assert base == files.read(tmp_path / "lora.safetensors").base


@pytest.mark.parametrize("real", ["target", "data"])
def test_a_jump_is_held_against_where_it_should_land(tiny_base, real):
    """The consistency target, or the data at that noise; both carried above `end`, to one t, by noise of their own."""
    loss, _, nets = opened(tiny_base, of="jump", real=real, span=[0.2, 0.6])
    batch = batch_of(tiny_base, 16)
    fake, end = loss.fake(batch, nets)
    step = tscd(batch, nets)
    assert torch.equal(end, batch.end)
    torch.testing.assert_close(fake, step.x_end)
    truth = loss.real(batch, nets)
    if real == "target":
        torch.testing.assert_close(truth, step.target)
    else:
        apart = (truth - tiny_base.schedule.at(end, 4)[0] * batch.x0) / tiny_base.schedule.at(end, 4)[1]
        assert apart.std() == pytest.approx(1, rel=0.1)
    x_t, t = loss.noised(torch.zeros_like(fake), end, batch, nets)
    again, _ = loss.noised(torch.zeros_like(fake), end, batch, nets, t)
    assert (t >= end).all()
    assert t.min() >= 200
    assert t.max() < 600
    assert abs(torch.corrcoef(torch.stack([x_t.flatten(), again.flatten()]))[0, 1]) < 0.1


def test_a_pair_is_seen_from_where_it_began(tiny_base):
    """Heads of twice the maps: another x_t, another vote."""
    loss, heads, nets = opened(tiny_base, of="jump", pair=True)
    batch = batch_of(tiny_base)
    x_t, t = loss.noised(batch.x0, batch.end, batch, nets)
    elsewhere = replace(batch, x_t=batch.x0)
    votes = loss.votes(x_t, t, batch, nets, heads.choose(batch.shared), loss.begun(batch, nets))
    elsewhere = loss.votes(x_t, t, elsewhere, nets, [0] * len(heads.pools), loss.begun(elsewhere, nets))
    assert not any(torch.allclose(a, b) for a, b in zip(votes, elsewhere, strict=True))
    loss.student(batch, nets).backward()
    assert any(p.grad.abs().max() > 0 for p in nets.roles.parameters(STUDENT).values() if p.grad is not None)


def test_a_pool_gives_one_head_to_each_update(tiny_base):
    loss, heads, nets = opened(tiny_base, pool=3)
    batch = batch_of(tiny_base)
    chosen = heads.choose(batch_of(tiny_base).shared)  # what refresh draws comes first
    loss.opponent(batch, nets).backward()
    trained = [[index for index, head in enumerate(pool) if head[0].weight.grad is not None] for pool in heads.pools]
    assert all(len(of_pool) == 1 for of_pool in trained)
    picks = {tuple(heads.choose(shared(0, 0, iteration))) for iteration in range(20)}
    assert len(picks) > 5
    assert all(0 <= index < 3 for index in chosen)


@pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0, 0), (0.25, 10, 40), (1.0, 90, 90)])
def test_heads_begin_anew_by_chance(tiny_base, share, least, most):
    """The same ones and alike in every process: all of it comes from the generator that they share."""
    one, two = (Discriminator(tiny_base, 4, pool=30) for _ in range(2))
    assert len(one.pools) == 3
    before = [head[0].weight.clone() for pool in one.pools for head in pool]
    one.refresh(share, shared(0, 0, 7))
    two.refresh(share, shared(0, 0, 7))
    heads = [head for pool in one.pools for head in pool]
    anew = sum(not torch.equal(head[0].weight, was) for head, was in zip(heads, before, strict=True))
    assert least <= anew <= most
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_r1_is_how_much_a_vote_on_the_real_changes(tiny_base):
    values = {}
    for r1 in (0.0, 3.0):
        loss, heads, nets = opened(tiny_base, r1=r1, r1_noise=0.5)
        batch = batch_of(tiny_base)
        values[r1] = loss.opponent(batch, nets).item()
    loss, heads, nets = opened(tiny_base, r1=1.0)
    batch = batch_of(tiny_base)
    loss.network.refresh(0.0, batch.shared)
    chosen = heads.choose(batch.shared)
    loss.fake(batch, nets)
    _, t = loss.noised(batch.x0, torch.full_like(batch.end, -1), batch, nets)
    real, _ = loss.noised(batch.x0, torch.full_like(batch.end, -1), batch, nets, t)
    shaken = real + 0.5 * noise(batch)
    changed = [
        (a - b).square().mean()
        for a, b in zip(*(loss.votes(x, t, batch, nets, chosen, []) for x in (real, shaken)), strict=True)
    ]
    assert values[3.0] - values[0.0] == pytest.approx(3.0 * float(torch.stack(changed).mean().detach()), rel=1e-4)
    assert values[3.0] > values[0.0]


@pytest.mark.parametrize("wrong", [{"real": "target"}, {"pair": True}])
def test_a_drawing_has_no_target(wrong):
    with pytest.raises(ValueError, match="need of: jump"):
        losses.load("adversarial", wrong)


@pytest.mark.parametrize("span", [[0.5, 0.5], [0.7, 0.2], [-0.1, 0.5], [0.0, 1.1]])
@pytest.mark.parametrize("name", ["adversarial", "score"])
def test_a_span_is_in_order(name, span):
    with pytest.raises(ValueError, match=f"losses.{name}.span.*two numbers from 0 to 1, the lower one first"):
        losses.load(name, {"span": span})
