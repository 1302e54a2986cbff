"""The sizes of a miniature, and where its parts are kept: one YAML file, strict."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
BUNDLED = ROOT / "hypersd" / "bundled"


@dataclass
class AutoencoderConfig:
    channels: list[int] = field(default_factory=lambda: [24, 48, 96, 128])
    layers: int = 1
    latent_channels: int = 16
    groups: int = 8
    batch: int = 16
    steps: int = 3000
    minutes: float = 18.0  # stops at whichever comes first
    lr: float = 1e-3


@dataclass
class BaseConfig:
    channels: list[int] = field(default_factory=lambda: [96, 160, 224])
    layers: int = 1
    attention: list[bool] = field(default_factory=lambda: [True, True, True])
    head_width: int = 32
    text_width: int = 192
    text_layers: int = 3
    text_length: int = 24
    vocabulary: int = 1800
    batch: int = 32
    steps: int = 20000
    minutes: float = 65.0
    lr: float = 1e-3
    empty: float = 0.1
    min_snr: float = 5.0
    ema: float = 0.999
    guidance: float = 4.0


@dataclass
class JudgeConfig:
    steps: int = 4000
    minutes: float = 15.0
    batch: int = 64
    lr: float = 1e-3


@dataclass
class Config:
    """`size`: of the pictures drawn. `weights`: how often each Unicode group is drawn, 1 unless said.

    `start`: a pipeline's folder whose training goes on: its tokenizer and autoencoder stay, its UNet and
    text encoder are where training begins. None begins from nothing.
    """

    name: str = "cpu"
    size: int = 64
    stored_size: int = 128
    styles: list[str] = field(default_factory=lambda: ["3d", "noto", "flat"])
    judge_styles: list[str] = field(default_factory=lambda: ["3d", "noto", "flat"])
    concept_power: float = 0.5
    weights: dict[int, float] = field(default_factory=lambda: {8: 0.3, 9: 0.3})
    seed: int = 0
    start: Path | None = None
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    base: BaseConfig = field(default_factory=BaseConfig)
    judge_a: JudgeConfig = field(default_factory=JudgeConfig)
    judge_b: JudgeConfig = field(default_factory=JudgeConfig)
    work: Path = ROOT / "build" / "emoji"


PARTS = {"autoencoder": AutoencoderConfig, "base": BaseConfig, "judge_a": JudgeConfig, "judge_b": JudgeConfig}


def _strict(kind: type, values: dict[str, Any], where: str) -> Any:
    unknown = set(values) - {f.name for f in fields(kind)}
    if unknown:
        raise ValueError(f"unknown setting {sorted(unknown)} in {where}; known: {[f.name for f in fields(kind)]}")
    return kind(**values)


def read_config(path: Path, work: Path | None = None) -> Config:
    values = yaml.safe_load(path.read_text()) or {}
    for name, kind in PARTS.items():
        values[name] = _strict(kind, values.get(name) or {}, f"{path.name}: {name}")
    config: Config = _strict(Config, values, path.name)
    config.work = work or config.work
    return config


def from_command_line(description: str) -> Config:
    """`--config` and `--work`, the same for every stage."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("cpu.yaml"))
    parser.add_argument("--work", type=Path, default=None, help="downloads, dataset, checkpoints (build/emoji)")
    parser.add_argument("--start", type=Path, default=None, help="go on training this pipeline (a folder)")
    parser.add_argument("--minutes", type=float, default=None, help="overrides the stage's time")
    arguments = parser.parse_args()
    config = read_config(arguments.config, arguments.work)
    config.start = arguments.start or config.start
    if arguments.minutes is not None:
        for part in PARTS:
            getattr(config, part).minutes = arguments.minutes
    return config
