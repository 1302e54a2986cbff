"""A state dict of open_clip's ViT-H-14 (https://github.com/mlfoundations/open_clip) as transformers' `CLIPModel`.

Its activation is GELU, where OpenAI's CLIP has QuickGELU. Depths and widths are read from the tensors; the widths
of attention heads are not in them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from math import isqrt
from typing import Any

from torch import Tensor

from hypersd.judges.networks import weights

VISION_HEAD, TEXT_HEAD = 80, 64  # widths of an attention head
PLACES = {
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "logit_scale": "logit_scale",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
}
PROJECTIONS = {"text_projection": "text_projection.weight", "visual.proj": "visual_projection.weight"}
NORMS = {
    "ln_final": "text_model.final_layer_norm",
    "visual.ln_pre": "vision_model.pre_layrnorm",  # so spelt
    "visual.ln_post": "vision_model.post_layernorm",
}
PARTS = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj"}
PARTS |= {"mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
BLOCK = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+?)[._](weight|bias)")


def load(found: Mapping[str, Tensor]) -> Any:
    """Raises KeyError for a tensor that is missing, and ValueError for one that this architecture does not have."""
    from transformers import CLIPModel

    renamed = dict(pair for key, tensor in found.items() for pair in converted(key, tensor))
    return weights.fill(CLIPModel, config(found), renamed)


def converted(key: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """One of open_clip's tensors under transformers' names; three where query, key and value are stacked."""
    owner, _, kind = key.rpartition(".")
    if key in PLACES:
        yield PLACES[key], tensor
    elif key in PROJECTIONS:
        yield PROJECTIONS[key], tensor.T.contiguous()
    elif owner in NORMS:
        yield f"{NORMS[owner]}.{kind}", tensor
    elif match := BLOCK.fullmatch(key):
        yield from _of_block(key, tensor, *match.groups())
    elif key != "attn_mask":  # which transformers makes itself
        raise ValueError(f"{key!r} is no part of a ViT-H-14")


def _of_block(
    key: str, tensor: Tensor, visual: str | None, number: str, part: str, kind: str
) -> Iterator[tuple[str, Tensor]]:
    layer = f"{'vision' if visual else 'text'}_model.encoder.layers.{number}"
    if part == "attn.in_proj":
        for name, third in zip("qkv", tensor.chunk(3), strict=True):
            yield f"{layer}.self_attn.{name}_proj.{kind}", third.contiguous()
    elif part in PARTS:
        yield f"{layer}.{PARTS[part]}.{kind}", tensor
    else:
        raise ValueError(f"{key!r} is no part of a ViT-H-14")


def config(found: Mapping[str, Tensor]) -> Any:
    from transformers import CLIPConfig

    width, _, patch, _ = found["visual.conv1.weight"].shape
    words, text_width = found["token_embedding.weight"].shape
    projection = found["text_projection"].shape[1]
    vision = {
        "image_size": patch * isqrt(len(found["visual.positional_embedding"]) - 1),
        "patch_size": patch,
        **_tower(found, "visual.transformer", width, VISION_HEAD),
    }
    text = {
        "vocab_size": words,
        "max_position_embeddings": len(found["positional_embedding"]),
        "bos_token_id": words - 2,
        "eos_token_id": words - 1,
        **_tower(found, "transformer", text_width, TEXT_HEAD),
    }
    return CLIPConfig(vision_config=vision, text_config=text, projection_dim=projection)


def _tower(found: Mapping[str, Tensor], name: str, width: int, head: int) -> dict[str, Any]:
    blocks = {key.split(".resblocks.")[1].split(".")[0] for key in found if key.startswith(f"{name}.resblocks.")}
    return {
        "hidden_size": width,
        "intermediate_size": len(found[f"{name}.resblocks.0.mlp.c_fc.weight"]),
        "num_hidden_layers": len(blocks),
        "num_attention_heads": width // head,
        "hidden_act": "gelu",
    }
