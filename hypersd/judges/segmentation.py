"""Instance-perceptual loss, Hyper-SD Eq. 14: what a segmenter finds in a picture against the ground truth.

The paper's segmenter is SOLO. Here it is Mask2Former (Cheng et al. 2022, arXiv 2112.01527) with its own training loss
for bases that draw photographs, and judge A's mask head with the picture's own alpha for the miniature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from hypersd import judges, tensors
from hypersd.judges import About, File
from hypersd.judges.networks import pictures, weights

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
STEP = 32  # pixels, of Mask2Former's coarsest map
INSTANCES = "facebook/mask2former-swin-small-coco-instance"
PERCEPTUALS = {
    "mask2former": About(
        trained_on="COCO 2017, instances of 80 classes",
        licence="MIT (the code's; the hub says only 'other')",
        may_reward=True,
        # 276 MB; nobody here knows more of it
        files=(File(INSTANCES, "model.safetensors"), File(INSTANCES, "config.json")),
        truth=judges.INSTANCE_MASKS,
    ),
    "emoji-mask": About(
        trained_on="alpha channels of the bundled miniature's pictures",
        licence="Apache-2.0",
        may_reward=True,
        truth=judges.MASKS,
    ),
}


@dataclass(frozen=True)
class Instances:
    """The ground truth of one picture, at any resolution. Labels are the checkpoint's: COCO's 80 in order, from 0."""

    masks: Shaped[Tensor, "n h w"]
    labels: Int[Tensor, " n"]


class Mask2Former(nn.Module):
    """Its training loss: class, mask and Dice terms at every depth, predictions matched to instances."""

    def __init__(self, net: Any):
        super().__init__()
        self.net = net

    def forward(self, images: Float[Tensor, "b 3 h w"], truth: Sequence[Instances]) -> Float[Tensor, ""]:
        if len(images) != len(truth):
            raise ValueError(f"{len(images)} images and {len(truth)} truths: give the instances of each image")
        if images.shape[-2] % STEP or images.shape[-1] % STEP:
            raise ValueError(f"height and width must be multiples of {STEP}, not {tuple(images.shape[-2:])}")
        pixels = pictures.normalised(images.float(), MEAN, STD)
        masks = [instances.masks.to(pixels) for instances in truth]
        labels = [instances.labels.to(pixels.device) for instances in truth]
        cards = [pixels.device] if pixels.is_cuda else []
        # The loss is taken at points drawn from the global stream: the same ones each time, so that a run repeats.
        with torch.random.fork_rng(cards):
            torch.manual_seed(0)
            loss: Tensor = self.net(pixel_values=pixels, mask_labels=masks, class_labels=labels).loss
        return loss


class AlphaMask(nn.Module):
    """Cross-entropy and Dice between judge A's mask and an alpha channel, which is brought to the images' size."""

    def __init__(self, judge: Any):
        super().__init__()
        self.judge = judge

    def forward(self, images: Float[Tensor, "b 3 h w"], truth: Float[Tensor, "b 1 y x"]) -> Float[Tensor, ""]:
        logits = self.judge.mask(images.float())
        truth = F.interpolate(truth.to(logits), logits.shape[-2:], mode="bilinear", antialias=True)
        return F.binary_cross_entropy_with_logits(logits, truth) + dice(logits.sigmoid(), truth).mean()


def dice(found: Float[Tensor, "b 1 h w"], true: Float[Tensor, "b 1 h w"]) -> Float[Tensor, " b"]:
    """1 - 2|A ∩ B| / (|A| + |B|), and 0 where both are empty."""
    both, sizes = (found * true).sum((1, 2, 3)), (found + true).sum((1, 2, 3))
    return 1 - (2 * both + 1) / (sizes + 1)


def load(name: str, folder: Path | None = None) -> nn.Module:
    """One of `PERCEPTUALS`. Raises FileNotFoundError or OSError where a file is missing or damaged."""
    if name == "emoji-mask":
        return AlphaMask(judges.load("emoji-a", folder))
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation

    about = PERCEPTUALS[name]
    checkpoint, config = about.find(folder)
    remedy = about.files[0].remedy
    settings, found = weights.config(Mask2FormerConfig, config, remedy), weights.read(checkpoint, remedy)
    with tensors.readable(checkpoint, remedy):
        # a layer of transformers' Swin that a backbone does not use, and that the checkpoint is older than
        net = weights.fill(Mask2FormerForUniversalSegmentation, settings, found, unused="swin.layernorm.")
    return Mask2Former(net)
