"""One evaluation: from the names of a base and a LoRA to the report and its file."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from hypersd import bases, bundled
from hypersd.bases import Base
from hypersd.cache import folder as cache_folder
from hypersd.draw.pipeline import Drawer, Settings, check_steps, teacher_guidance
from hypersd.evaluate import captions, eyes, real, rows
from hypersd.evaluate.eyes import Eyes
from hypersd.evaluate.report import Report
from hypersd.evaluate.sets import Studio, weights_digest

FULL_PICTURES, FULL_SEEDS = 2000, 3
QUICK_PICTURES, QUICK_SEEDS = 200, 1
PATH_PICTURES = 32
"""Paths a set, or one for 16 pictures where that is fewer."""
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}
PACKAGES = ("torch", "diffusers", "transformers", "peft")


def _silent(label: str, share: float) -> None:
    pass


def run(
    base: str = "emoji",
    lora: Path | None = None,
    out: Path | None = None,
    split: str = "develop",
    pictures: int = FULL_PICTURES,
    seeds: int = FULL_SEEDS,
    steps: Sequence[int] = (1, 2, 4, 8),
    guidance: float | None = None,
    scale: float = 1.0,
    precision: str = "fp32",
    cache: Path | None = None,
    optional: bool = True,
    path_pictures: int | None = None,
    progress: rows.Progress = _silent,
    command: str | None = None,
    watchers: Eyes | None = None,
    folder: Path = bundled.EVALUATION,
) -> Report:
    """Measures a base, and a LoRA on it if one is given, against the base's own many-step guided pictures.

    `guidance` is the teacher's; unless given, it is what the LoRA was distilled with. Fewer than 2,000
    `pictures` a set or 3 sets of `seeds` make a quick look, and the report says so. `optional` lets
    ResNet50 and LPIPS look, where they were fetched. Writes JSON to `out`. What was drawn stays in `cache`,
    so that an interrupted evaluation goes on where it was.
    """
    clock, cache = time.perf_counter(), cache or cache_folder()
    if seeds < 1 or not steps or precision not in PRECISIONS:
        raise ValueError("give at least one set of seeds, one step count, and precision fp32 or bf16")
    if out is not None:
        check_writable(out)
    if guidance is not None:
        guidance = Settings(guidance_scale=guidance).checked().guidance_scale
    drawn = captions.load(split, folder)
    own, pictured = captions.paired(len(drawn), pictures), real.load(drawn, folder)
    if path_pictures is None:
        path_pictures = min(PATH_PICTURES, pictures // 16)
    studio = open_studio(base, lora, scale, precision, cache, watchers, optional)
    made = studio.tuned.made if studio.tuned else None
    for count in steps:
        check_steps(count, made_for=made.sampler.get("steps") or () if made else ())
    if guidance is None:
        guidance = teacher_guidance(made)
    total = rows.work(steps, guidance, pictures, seeds, lora is not None, path_pictures)
    meter = rows.Meter(progress, total)
    job = rows.Job(studio, split, drawn, own, seeds, tuple(steps), guidance, path_pictures, meter)
    asked: dict[str, Any] = {"base": base, "lora": lora.name if lora else None, "scale": scale}
    asked |= {"split": split, "pictures": pictures, "seeds": seeds, "guidance": guidance}
    asked |= {"precision": precision, "captions": len(drawn), "path_pictures": path_pictures}
    asked |= {
        "quick": pictures < FULL_PICTURES or seeds < FULL_SEEDS,
        "command": command or " ".join(sys.argv),
    }
    found = rows.measure(job, pictured)
    asked |= {"drawing_seconds": round(sum(meter.seconds.values()), 1)}
    asked |= {"wall_seconds": round(time.perf_counter() - clock, 1), **surroundings(studio)}
    report = replace(found, about=asked)
    if out is not None:
        report.write(out)
    return report


def check_writable(out: Path) -> None:
    """Now rather than after hours of drawing. Raises ValueError for a folder, OSError where nothing can be written."""
    if out.is_dir():
        raise ValueError(f"out: {out} is a folder; name a .json file in it")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise OSError(f"could not write {out}: {error.strerror}; nothing was drawn") from error


def open_studio(
    base: str,
    lora: Path | None,
    scale: float,
    precision: str,
    cache: Path,
    watchers: Eyes | None = None,
    optional: bool = True,
) -> Studio:
    """The base with and without its LoRA, both on one network, or with another in its place; named by sha256.

    Unless given, those who watch are on the base's device.
    """
    loaded: Any = bases.load(base)
    where = bundled.BASE if base == "emoji" else Path(base)
    identity = {"base": weights_digest(where) if where.exists() else base, "device": loaded.device.type}
    if PRECISIONS[precision] is not None:
        loaded.autocast = PRECISIONS[precision]
        identity["precision"] = precision
    if lora is not None:
        identity |= {"lora": weights_digest(lora), "scale": f"{scale:g}"}
    plain, tuned = Drawer(loaded), None
    if lora is not None:
        tuned = Drawer.load(base, lora, scale) if lora.is_dir() else Drawer(loaded, lora, scale)
        network: Any = tuned.base
        network.autocast = loaded.autocast
    return Studio(plain, tuned, watchers or eyes.load(cache, loaded.device, optional), cache, identity)


def surroundings(studio: Studio) -> dict[str, Any]:
    """On what, where and when, for whoever reads the numbers later."""
    return {
        "sha256": {name: studio.identity[name] for name in ("base", "lora") if name in studio.identity},
        "eyes": studio.eyes.name,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": machine(studio.base),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }


def machine(base: Base) -> str:
    if base.device.type == "cuda":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
