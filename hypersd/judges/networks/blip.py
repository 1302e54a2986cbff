"""BLIP's towers (Li et al. 2022, arXiv 2201.12086) from its own state dict, as transformers' `BlipVisionModel` and
`BlipTextModel`. Depths and widths are read from the tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt
from typing import Any

from torch import Tensor

from hypersd.judges.networks import weights

HEAD = 64  # width of an attention head, in both towers
VISION = (
    ("cls_token", "embeddings.class_embedding"),
    ("pos_embed", "embeddings.position_embedding"),
    ("patch_embed.proj.", "embeddings.patch_embedding."),
    ("blocks.", "encoder.layers."),
    (".attn.proj.", ".self_attn.projection."),
    (".attn.", ".self_attn."),
    (".norm1.", ".layer_norm1."),
    (".norm2.", ".layer_norm2."),
)


def load_vision(found: Mapping[str, Tensor]) -> Any:
    """Of the state dict of BLIP's `VisionTransformer`. Raises KeyError or ValueError where it is none."""
    from transformers import BlipVisionConfig, BlipVisionModel

    width, _, patch, _ = found["patch_embed.proj.weight"].shape
    config = BlipVisionConfig(
        hidden_size=width,
        intermediate_size=len(found["blocks.0.mlp.fc1.weight"]),
        num_hidden_layers=_depth(found, "blocks."),
        num_attention_heads=width // HEAD,
        image_size=patch * isqrt(found["pos_embed"].shape[1] - 1),
        patch_size=patch,
        layer_norm_eps=1e-6,  # transformers' default is 1e-5
    )
    return weights.fill(BlipVisionModel, config, {_vision(key): tensor for key, tensor in found.items()})


def _vision(key: str) -> str:
    if key.startswith("norm."):
        return f"post_layernorm.{key.removeprefix('norm.')}"
    for theirs, ours in VISION:
        key = key.replace(theirs, ours)
    return key


def load_text(found: Mapping[str, Tensor]) -> Any:
    """Of the state dict of BLIP's `BertModel` with cross-attention, whose names transformers has kept."""
    from transformers import BlipTextConfig, BlipTextModel

    words, width = found["embeddings.word_embeddings.weight"].shape
    config = BlipTextConfig(
        vocab_size=words,
        hidden_size=width,
        encoder_hidden_size=found["encoder.layer.0.crossattention.self.key.weight"].shape[1],
        intermediate_size=len(found["encoder.layer.0.intermediate.dense.weight"]),
        num_hidden_layers=_depth(found, "encoder.layer."),
        num_attention_heads=width // HEAD,
        max_position_embeddings=len(found["embeddings.position_embeddings.weight"]),
        is_decoder=True,  # gives it cross-attention; the mask stays open both ways unless a call says otherwise
    )
    return weights.fill(BlipTextModel, config, found, unused="pooler.")


def _depth(found: Mapping[str, Tensor], blocks: str) -> int:
    return len({key.removeprefix(blocks).split(".")[0] for key in found if key.startswith(blocks)})
