"""Files of a whole network: what a full role has become, under the network's own names, with the header of a LoRA file.

Such a file is what diffusers reads as the weights of a UNet, and what is called "...-Unet.safetensors" on model cards.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from hypersd import tensors
from hypersd.atomic import write_bytes
from hypersd.lora.files import about_it

REMEDY = "train it again"


@dataclass(frozen=True)
class About:
    """What the header of a network's file says."""

    recipe: dict[str, Any]
    sampler: dict[str, Any]
    base: dict[str, Any]


def write(
    path: Path,
    weights: Mapping[str, Tensor],
    base: Mapping[str, Any],
    recipe: Mapping[str, Any],
    sampler: Mapping[str, Any],
    dtype: torch.dtype = torch.float16,
    said: Mapping[str, str] | None = None,
) -> None:
    """Writes the file by rename: it is whole or it is not there."""
    written = {name: weight.to(dtype).cpu().contiguous() for name, weight in weights.items()}
    write_bytes(path, save(written, about_it(recipe, sampler, base, "stable-diffusion-v1", said)))


def read_header(path: Path) -> About:
    """Raises FileNotFoundError, or OSError for a damaged file and for one that another program wrote."""
    with tensors.readable(path, REMEDY), safe_open(path, "pt") as file:
        header = file.metadata() or {}
        return About(*(json.loads(header[f"hyper.{key}"]) for key in ("recipe", "sampler", "base")))
