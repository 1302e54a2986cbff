"""Eq. 14: Mask2Former's loss on a checkpoint as old as the published one, and judge A's mask against alpha."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from hypersd import judges
from hypersd.judges import segmentation
from hypersd.judges.segmentation import Instances, dice
from tests.judges import originals


@pytest.fixture(scope="module")
def net():
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

    stages = [f"stage{n}" for n in (1, 2, 3, 4)]
    shape = {"image_size": 32, "embed_dim": 8, "depths": [1] * 4, "num_heads": [1] * 4, "window_size": 2}
    widths = ("feature_size", "mask_feature_size", "hidden_dim", "encoder_feedforward_dim", "dim_feedforward")
    config = Mask2FormerConfig(
        backbone_config=SwinConfig(**shape, out_features=stages),
        **dict.fromkeys(widths, 32),
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        num_queries=5,
        num_labels=3,
        train_num_points=64,
    )
    return originals.seeded(Mask2FormerForUniversalSegmentation, config)


@pytest.fixture(scope="module")
def folder(net, tmp_path_factory):
    """Without what transformers 5 added to Swin, with the buffers that transformers 4 kept in files."""
    folder = tmp_path_factory.mktemp("mask2former")
    net.save_pretrained(folder)
    found = {key: part for key, part in load_file(folder / "model.safetensors").items() if "swin.layernorm" not in key}
    layer = "model.pixel_level_module.encoder.encoder.layers.0.blocks.0.attention.self.relative_position_index"
    save_file(found | {layer: torch.zeros(4, 4, dtype=torch.long)}, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    old = {"use_pretrained_backbone": False, "backbone": None, "torch_dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config | old))
    return folder


@pytest.fixture(scope="module")
def loss(folder):
    return judges.load_perceptual("mask2former", folder)


def truth():
    masks = torch.zeros(2, 64, 64, dtype=torch.bool)
    masks[0, :20, :30], masks[1, 40:, 10:] = True, True
    return [Instances(masks, torch.tensor([0, 2])), Instances(masks[:0], torch.tensor([], dtype=torch.long))]


def test_the_loss_is_the_networks_own(net, loss):
    images = originals.pictures(2, 64, 64)
    pixels = (images - torch.tensor(segmentation.MEAN)[:, None, None]) / torch.tensor(segmentation.STD)[:, None, None]
    masks, labels = [one.masks.float() for one in truth()], [one.labels for one in truth()]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        expected = net(pixels, mask_labels=masks, class_labels=labels).loss
    torch.testing.assert_close(loss(images, truth()), expected, atol=1e-5, rtol=1e-5)


def test_the_loss_repeats_and_leaves_the_global_stream_alone(loss):
    images = originals.pictures(2, 64, 64)
    before, first = torch.random.get_rng_state(), loss(images, truth())
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(3)
    assert torch.equal(loss(images, truth()), first)


def test_the_gradient_reaches_the_images_and_nothing_else(loss):
    images = originals.pictures(2, 64, 64).requires_grad_()
    (slope,) = torch.autograd.grad(loss(images, truth()), images)
    assert torch.isfinite(slope).all()
    assert (slope.flatten(1).norm(dim=1) > 0).all()
    assert not any(parameter.requires_grad for parameter in loss.parameters())


def test_wrong_shapes_are_refused(loss):
    with pytest.raises(ValueError, match="2 images and 1 truths: give the instances of each image"):
        loss(originals.pictures(2, 64, 64), truth()[:1])
    with pytest.raises(ValueError, match=r"multiples of 32, not \(64, 60\)"):
        loss(originals.pictures(2, 64, 60), truth())


def test_weights_that_are_missing_are_named(folder, tmp_path):
    found = load_file(folder / "model.safetensors")
    save_file(
        {key: part for key, part in found.items() if key != "class_predictor.bias"}, tmp_path / "model.safetensors"
    )
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(OSError, match=r"no 'class_predictor\.bias' in it\); fetch it again"):
        judges.load_perceptual("mask2former", tmp_path)


def disc(pixels):
    y, x = torch.meshgrid(torch.arange(pixels), torch.arange(pixels), indexing="ij")
    middle, radius = (pixels - 1) / 2, 3 / 8 * pixels
    return ((y - middle) ** 2 + (x - middle) ** 2 < radius**2)[None, None].float()


def test_judge_a_prefers_the_true_alpha():
    """A disc on white: its own alpha costs little, a shifted one more, the opposite most."""
    loss, alpha = judges.load_perceptual("emoji-mask"), disc(64)
    images = torch.cat([torch.ones(1, 1, 64, 64), 1 - 0.3 * alpha, 1 - alpha], 1).requires_grad_()
    costs = [loss(images, other) for other in (alpha, alpha.roll(16, -1), 1 - alpha)]
    assert costs[0] < 0.5 * costs[1] < 0.5 * costs[2]
    logits = loss.judge.mask(images)
    expected = F.binary_cross_entropy_with_logits(logits, alpha) + dice(logits.sigmoid(), alpha).mean()
    torch.testing.assert_close(costs[0], expected)
    (slope,) = torch.autograd.grad(costs[0], images)
    assert slope.abs().sum() > 0


def test_alpha_may_have_another_size():
    loss, images = judges.load_perceptual("emoji-mask"), 1 - 0.8 * disc(64).expand(-1, 3, -1, -1)
    larger = disc(192)
    assert loss(images, larger) < 2 * loss(images, disc(64)) < 0.2 * loss(images, larger.roll(24, -1))


def test_dice_in_closed_form():
    full, half = torch.ones(1, 1, 2, 4), torch.ones(1, 1, 2, 4)
    half[..., 2:] = 0
    found = torch.cat([dice(full, full), dice(full, half), dice(0 * full, 0 * full)])
    torch.testing.assert_close(found, torch.tensor([1 - 17 / 17, 1 - 9 / 13, 0.0]))
