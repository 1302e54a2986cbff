"""A random LoRA that changes what the tiny base draws."""

from __future__ import annotations

from pathlib import Path

import torch


def write_lora(base, path: Path, rank: int = 2, shape: dict | None = None, sampler: dict | None = None) -> Path:
    from hypersd.lora import files
    from hypersd.lora.roles import Roles

    roles = Roles(base.unet)
    roles.add("made", rank, ["to_q", "to_v", "conv1"])
    generator = torch.Generator().manual_seed(3)
    state = {k: torch.randn(v.shape, generator=generator) for k, v in roles.state("made").items()}
    header = {"name": "ddim", "steps": [1, 2, 4, 8], **(sampler or {})}
    recipe = {"teacher": {"guidance": [4.0, 6.0]}}
    files.write(path, state, roles.shape("made"), shape or files.fingerprint(base.unet), recipe, header)
    return path
