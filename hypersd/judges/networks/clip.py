"""CLIP (Radford et al. 2021, arXiv 2103.00020) as transformers has it: pictures and texts to unit vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from hypersd import tensors
from hypersd.judges.networks import weights


def load(checkpoint: Path, config: Path, remedy: str) -> Any:
    """Both towers, `CLIPModel`."""
    from transformers import CLIPConfig, CLIPModel

    both, found = weights.config(CLIPConfig, config, remedy), weights.read(checkpoint, remedy)
    with tensors.readable(checkpoint, remedy):
        return weights.fill(CLIPModel, both, found)


def load_vision(checkpoint: Path, config: Path, remedy: str) -> Any:
    """The picture's tower only, `CLIPVisionModelWithProjection`, out of a file that may hold both."""
    from transformers import CLIPConfig, CLIPVisionModelWithProjection

    both, found = weights.config(CLIPConfig, config, remedy), weights.read(checkpoint, remedy)
    with tensors.readable(checkpoint, remedy):
        both.vision_config.projection_dim = both.projection_dim
        return weights.fill(CLIPVisionModelWithProjection, both.vision_config, found)


def embed_pictures(net: Any, pixels: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b d"]:
    """Through the parts, since what `get_image_features` returns differs between versions of transformers."""
    return F.normalize(net.visual_projection(net.vision_model(pixels).pooler_output), dim=-1)


def embed_texts(net: Any, tokens: Int[Tensor, "b l"]) -> Float[Tensor, "b d"]:
    return F.normalize(net.text_projection(net.text_model(tokens).pooler_output), dim=-1)
