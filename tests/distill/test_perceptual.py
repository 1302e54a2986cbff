"""The instance-perceptual loss: where drawings begin, by which gradient they change, and whose truth is whose."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from hypersd import bases, judges, recipe
from hypersd.diffusion.segments import Segments
from hypersd.distill import data, losses
from hypersd.distill.randomness import generators
from hypersd.distill.rollout import before_last, on_route
from hypersd.distill.step import BENEATH, STUDENT, Nets, draw_batch
from hypersd.distill.train import train
from hypersd.judges.segmentation import dice
from hypersd.lora.roles import Roles
from hypersd.recipe import Draw
from tests.distill.runs import whole_and_cut

ROUTES = [[999], [999, 666, 332]]
CODE = 30


def batch_of(base, size=4):
    rngs = generators(0, 0, 2, range(size))
    x0 = torch.randn(size, *base.latent_shape(), generator=torch.Generator().manual_seed(1))
    draw = Draw(end="visited", visited_share=1.0)
    return draw_batch(base, x0, base.encode(["a cat"] * size), rngs, Segments(1), draw, ROUTES, (1.0, 1.0))


def two_loras(base):
    """A student on a finished LoRA."""
    roles, generator = Roles(base.unet), torch.Generator().manual_seed(0)
    for role in (BENEATH, STUDENT):
        roles.add(role, 2, ["to_v", "conv2"])
        shapes = roles.state(role)
        roles.load(role, {k: 0.2 * torch.randn(v.shape, generator=generator) for k, v in shapes.items()})
    return roles


def discs(size, pixels):
    """Alpha of discs, each at a place of its own."""
    y, x = torch.meshgrid(torch.arange(pixels), torch.arange(pixels), indexing="ij")
    middles = torch.linspace(0.3, 0.7, size).view(-1, 1, 1, 1) * pixels
    return (((y - middles) ** 2 + (x - middles) ** 2) < (0.3 * pixels) ** 2).float()


def drawn_by_hand(base, roles, batch, sample, start):
    """One sample's own way from x_{t_a}, written out; gradient in the jump to −1 alone."""
    one, route = slice(sample, sample + 1), batch.route[sample].tolist()
    x = base.schedule.add_noise(batch.x0[one], batch.eps[one], torch.tensor([start]))
    stops = [t for t in dict.fromkeys(route) if t <= start]
    code = CODE * (len(set(route) - {-1}) - 1)
    for t, end in pairwise(stops):
        with roles.play(BENEATH, STUDENT), torch.set_grad_enabled(end == -1):
            x0, eps = base.predict(x, torch.tensor([t]), batch.cond[one], torch.tensor([t - code]))
            x = base.schedule.add_noise(x0, eps, torch.tensor([end]))
    return x


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_gradient_is_the_last_jumps_alone(tiny_base, checkpointing):
    """Of segmenter and truth, written out on networks that share nothing, each sample by itself."""
    plain = copy.deepcopy(tiny_base)
    roles, apart = two_loras(tiny_base), two_loras(plain)
    if checkpointing:
        tiny_base.unet.train().enable_gradient_checkpointing(roles.checkpoint)
    nets, truth = Nets(tiny_base, roles, beneath=(BENEATH,)), discs(4, 16)
    loss = losses.load("perceptual", {"name": "emoji-mask", "weight": 3.0})
    got = loss.student(replace(batch_of(tiny_base), code=CODE, truth=truth), nets)
    got.backward()
    others = [p for name, p in tiny_base.unet.named_parameters() if "lora_" not in name]
    others += [*tiny_base.vae.parameters(), *loss.segmenter.parameters()]
    assert all(parameter.grad is None for parameter in others)

    batch = batch_of(plain)
    starts = on_route(batch_of(plain)).tolist()
    assert sorted(starts) == [332, 666, 999, 999]
    finals = torch.cat([drawn_by_hand(plain, apart, batch, sample, start) for sample, start in enumerate(starts)])
    logits = judges.load("emoji-a").mask(plain.to_images(finals))
    lost = 3.0 * (F.binary_cross_entropy_with_logits(logits, truth) + dice(logits.sigmoid(), truth).mean())
    torch.testing.assert_close(got, lost)
    student = roles.parameters(STUDENT)
    expected = torch.autograd.grad(lost, list(apart.parameters(STUDENT).values()))
    for mine, theirs in zip(student.values(), expected, strict=True):
        torch.testing.assert_close(mine.grad, theirs, rtol=1e-3, atol=1e-6)
    assert max(parameter.grad.abs().max() for parameter in student.values()) > 1e-3


def test_every_timestep_of_a_route_is_as_likely_a_start():
    toy = bases.load("toy", "cpu", std=0.5)
    batch = batch_of(toy, 2000)
    found, long = on_route(batch), (batch.route >= 0).sum(1) == 3
    assert set(found[~long].tolist()) == {999}
    counts = torch.bincount(found[long])[ROUTES[1]] / long.sum()
    torch.testing.assert_close(counts, torch.full((3,), 1 / 3), atol=0.04, rtol=0)


def test_a_drawing_begins_in_its_noised_latent_and_goes_on_along_its_route():
    """On N(0, .5²) both are known: α x0 + σ ε, and of an untrained student a factor for each jump."""
    toy = bases.load("toy", "cpu", std=0.5)
    roles, batch = Roles(toy.unet), batch_of(toy, 24)
    roles.add(STUDENT, 1, toy.lora_targets)
    starts = on_route(batch)
    got, t = before_last(batch, Nets(toy, roles), starts)
    beta = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alpha_bar = (1 - beta).cumprod(0)
    for sample, start in enumerate(starts.tolist()):
        a, s = (level[start].item() for level in (alpha_bar.sqrt(), (1 - alpha_bar).sqrt()))
        expected = a * batch.x0[sample] + s * batch.eps[sample]
        stops = [start, *(t for t in batch.route[sample].tolist() if 0 <= t < start)]
        for here, there in pairwise(stops):
            (a, s), (b, r) = ((alpha_bar[t].sqrt(), (1 - alpha_bar[t]).sqrt()) for t in (here, there))
            expected = expected * ((a * b / 4 + s * r) / (a**2 / 4 + s**2)).float()
        assert t[sample] == stops[-1]
        torch.testing.assert_close(got[sample], expected, rtol=1e-3, atol=1e-4)


def write(path, latents, **truth):
    """Pictures that are numbered: captions and weights are all alike."""
    captions = json.dumps([["a cat"]] * len(latents))
    save_file({"latents": latents.half(), "weight": torch.ones(len(latents)), **truth}, path, {"captions": captions})
    return {"kind": "latents", "path": str(path)}


def numbered(count=5):
    return torch.arange(count).view(-1, 1, 1, 1).expand(-1, 4, 8, 8).contiguous()


def drawn(base, folder, indices, **truth):
    source = data.load(base, write(folder / "latents.safetensors", numbered(), **truth), folder)
    found = source.draw(generators(0, 0, 3, indices))
    return found.latents[:, 0, 0, 0].long().tolist(), found.truth


def test_alpha_is_its_samples_own_in_any_batch(tiny_base, tmp_path):
    alpha = (50 * numbered()[:, :1, :6, :6]).to(torch.uint8).contiguous()
    which, truth = drawn(tiny_base, tmp_path, range(20), masks=alpha)
    assert set(which) == set(range(5))
    assert truth.shape == (20, 1, 6, 6)
    torch.testing.assert_close(truth.mean((1, 2, 3)), 50 / 255 * torch.tensor(which).float())
    _, part = drawn(tiny_base, tmp_path, range(7, 12), masks=alpha)
    assert torch.equal(part, truth[7:12])


def test_instances_are_their_samples_own_without_what_fills_up(tiny_base, tmp_path):
    """Picture n shows n instances of class n; the rest of its rows is filled up."""
    real = torch.arange(5)[:, None] > torch.arange(4)
    labels = torch.where(real, torch.arange(5)[:, None], -1)
    masks = (7 * torch.eye(4)).to(torch.uint8).expand(5, 4, 4).unsqueeze(-2).contiguous()
    which, truth = drawn(tiny_base, tmp_path, range(20), instance_masks=masks, instance_labels=labels)
    for picture, instances in zip(which, truth, strict=True):
        assert instances.labels.tolist() == [picture] * picture
        assert torch.equal(instances.masks, torch.eye(4).bool()[:picture, None])


def test_without_truth_data_loads_as_before(tiny_base, tmp_path):
    assert drawn(tiny_base, tmp_path, range(3))[1] is None


@pytest.mark.parametrize(
    ("truth", "words"),
    [
        ({"masks": torch.zeros(4, 1, 6, 6, dtype=torch.uint8)}, r"masks of shape \[4, 1, 6, 6\]: .* its 5 latents"),
        ({"masks": torch.zeros(5, 1, 6, 6)}, "make them uint8, n 1 h w"),
        (
            {"instance_masks": torch.zeros(5, 2, 6, 6, dtype=torch.uint8), "instance_labels": torch.zeros(5, 3)},
            "n k h w with instance_labels of n k",
        ),
    ],
)
def test_truth_that_does_not_fit_is_refused(tiny_base, tmp_path, truth, words):
    with pytest.raises(ValueError, match=words):
        drawn(tiny_base, tmp_path, range(1), **truth)


def recipe_of(source, **settings):
    return recipe.parse(
        {
            "name": "perceptual",
            "base": "toy",
            "data": source,
            "lora": {"rank": 4, "dtype": "fp32"},
            "draw": {"end": "visited", "visited_share": 1.0, "samplers": ["ddim"], "steps": [1, 2]},
            "optimiser": {"lr": 0.03},
            "losses": {"perceptual": {"name": "emoji-mask", **settings}},
            "batch": 2,
            "stages": [{"segments": 1, "iterations": 20}],
        }
    )


@pytest.mark.parametrize("name", ["emoji-mask", "mask2former"])
def test_data_without_its_truth_is_refused_before_anything_is_written(tmp_path, name):
    other = {"mask2former": {"masks": torch.zeros(5, 1, 6, 6, dtype=torch.uint8)}}.get(name, {})
    kind = {"emoji-mask": "masks", "mask2former": "instance_masks"}[name]
    for source in ({"kind": "gaussian"}, write(tmp_path / "latents.safetensors", numbered(), **other)):
        with pytest.raises(ValueError, match=rf"'perceptual' of stage 1 .*set data=.* with '{kind}' in it"):
            train(recipe_of(source, name=name), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"name": "clip"}, ValueError, "no judge 'clip'; there are emoji-mask, lpips, mask2former"),
        ({"name": "mask2former", "weights": "nowhere"}, FileNotFoundError, "nowhere has no model.safetensors; fetch"),
        ({"weight": -1}, ValueError, "give a number of 0 or more"),
    ],
)
def test_mistakes_name_the_remedy_before_anything_is_written(tmp_path, settings, error, words):
    source = write(tmp_path / "latents.safetensors", numbered())
    with pytest.raises(error, match=words):
        train(recipe_of(source, **settings), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_latents_that_are_not_there_are_told(tmp_path):
    with pytest.raises(ValueError, match="no latents at nowhere"):
        train(recipe_of({"kind": "latents", "path": "nowhere"}), tmp_path / "run")


def test_drawings_come_to_show_what_the_pictures_showed(tiny_folder, tmp_path):
    """As far as a random decoder lets them; an unchanged student's last five losses equal its first five."""
    latents = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    source = write(tmp_path / "latents.safetensors", latents, masks=(255 * discs(3, 64)[1:2]).byte().repeat(4, 1, 1, 1))
    train(recipe_of(source).model_copy(update={"base": str(tiny_folder)}), tmp_path / "run")
    again = tmp_path / "again"
    made = recipe_of(source).model_copy(update={"base": str(tiny_folder), "checkpoint_every": 2})
    stage = made.stages[0].model_copy(update={"iterations": 4})
    whole, cut = whole_and_cut(made.model_copy(update={"stages": (stage,)}), again, updates=3)
    assert all(torch.equal(tensor, cut[name]) for name, tensor in whole.items())
    lost = [json.loads(line)["loss"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert sum(lost[-5:]) < 0.985 * sum(lost[:5])
