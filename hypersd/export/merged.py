"""A diffusers folder around a network of its own, which a stock pipeline loads and `hypersd sample --base` too.

In it:
    unet/               what was trained; in the header of its weights too stands how it wants to be used
    scheduler/          what draws the same as our sampler does
    hypersd.json        recipe, sampler and base, as in that header
    text_encoder/ ...   the base's own
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hypersd import atomic, tensors
from hypersd.bases import ABOUT, REMEDY
from hypersd.diffusion.samplers import ONE_STEP
from hypersd.lora import network
from hypersd.lora.files import FINGERPRINT

INDEX, WEIGHTS = "model_index.json", "diffusion_pytorch_model.safetensors"
SCHEDULER = "scheduler_config.json"
SCHEDULERS = {"ddim": "DDIMScheduler", "tcd": "TCDScheduler", "lcm": "LCMScheduler"}
OURS = {"set_alpha_to_one": False, "clip_sample": False, "timestep_spacing": "trailing"}
PICKLES = ("*.bin", "*.ckpt", "*.pt", "*.msgpack", "*.h5")


def write(trained: Path, base: Path, out: Path) -> Path:
    """The folder `out`, which appears whole, of a network's file and the folder of the base that it was trained on.

    Raises ValueError for another base, and for an `out` that holds something else; OSError for damaged files.
    """
    about, index = network.read_header(trained), tensors.facts(base / INDEX, REMEDY)
    _check_fits(trained.name, about.base, tensors.facts(base / "unet" / "config.json", REMEDY))
    if out.exists() and not (out / ABOUT).is_file():
        raise ValueError(f"{out} is there already, and not a folder of ours: name another")
    scheduler = _scheduler(about.sampler)
    settings = tensors.facts(base / "scheduler" / SCHEDULER, REMEDY)
    with atomic.new_folder(out) as folder:
        for part in index:
            _copy(base / part, folder / part)
        shutil.copyfile(trained, folder / "unet" / WEIGHTS)
        atomic.write_json(folder / "scheduler" / SCHEDULER, {**settings, **OURS, "_class_name": scheduler})
        atomic.write_json(folder / INDEX, {**index, "scheduler": ["diffusers", scheduler]})
        atomic.write_json(folder / ABOUT, asdict(about))
    return out


def _check_fits(name: str, trained_on: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    for key in FINGERPRINT:
        if trained_on.get(key) != config.get(key):
            theirs, mine = trained_on.get(key), config.get(key)
            raise ValueError(f"{name} was trained on another base: its {key} is {theirs}, this base has {mine}")


def _copy(part: Path, to: Path) -> None:
    """A part of the base, without what was pickled; of the network nothing but its shape."""
    left = (*PICKLES, *(("*.safetensors", "*.safetensors.index.json") if part.name == "unet" else ()))
    for file in sorted(part.glob("*")):
        if file.is_file() and not any(file.match(pattern) for pattern in left):
            to.mkdir(exist_ok=True)
            shutil.copyfile(file, to / file.name)


def _scheduler(sampler: Mapping[str, Any]) -> str:
    """diffusers' DDIM takes no timesteps of one's own; its TCD does, and with η = 0 it is the same."""
    return SCHEDULERS["tcd" if ONE_STEP in sampler else sampler["name"]]
