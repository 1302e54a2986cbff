"""The prompts that distillation without pictures draws its latents from: captions of the training part.

    python -m emoji.prompts --config emoji/cpu.yaml

One a line, drawn as the base's training draws them: by concept, at a random level of detail.
"""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np

from emoji.captions import caption, draw_caption
from emoji.config import BUNDLED, Config, from_command_line
from emoji.dataset import build, draw_weights, read_records, write_bytes

COUNT = 4096
FILE = BUNDLED / "prompts.txt"


def choose(config: Config, count: int = COUNT) -> list[str]:
    """Distinct captions, the same ones every time.

    Without those that are also a held-out picture's: "a cook with dark skin" is said of three pictures.
    """
    every = read_records(build(config), config.styles)
    records = [r for r in every if r["part"] == "train"]
    held_out = {caption(r) for r in every if r["part"] != "train"}
    chances = draw_weights(records, config.concept_power, config.weights)
    order = np.random.default_rng(config.seed).choice(len(records), 3 * count, p=chances)
    words = random.Random(config.seed)
    drawn = dict.fromkeys(draw_caption(records[i], words) for i in order)
    return [text for text in drawn if text not in held_out][:count]


def write(config: Config) -> Path:
    write_bytes(FILE, ("\n".join(choose(config)) + "\n").encode())
    return FILE


if __name__ == "__main__":
    print(write(from_command_line(__doc__)))
