"""Latents of pictures that are not here."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file


def write_latents(path: Path, std: float = 0.5) -> None:
    """The toy's data, with a mask of where it is above 0."""
    latents = std * torch.randn(256, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    kept = {"latents": latents, "weight": torch.ones(256), "masks": (255 * (latents > 0)).to(torch.uint8)}
    save_file(kept, path, {"captions": json.dumps([[""]] * 256)})
