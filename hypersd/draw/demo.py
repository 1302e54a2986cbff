"""The demo: the original in many steps and in few, and the distilled model in few, on the same seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hypersd.draw.compare import Drawn, Way
from hypersd.draw.pipeline import Settings, settings_for, teacher_guidance
from hypersd.lora import files

PROMPTS = (
    "a woman firefighter with medium-dark skin, 3D style",
    "a man cook with light skin, 3D style",
    "a woman astronaut with dark skin, 3D style",
    "a woman superhero with light skin, flat style",
    "raised hand with medium skin, 3D style",
    "a smiling face with sunglasses, flat style",
    "a red heart, flat style",
    "a red apple, flat style",
)
STEPS = (1, 2, 4, 8)
REFERENCE_STEPS = 25
ORIGINAL, ORIGINAL_FEW, DISTILLED = "original", "original, fewer steps", "distilled"
STRIP = ((ORIGINAL, REFERENCE_STEPS), (DISTILLED, 4), (DISTILLED, 1), (ORIGINAL_FEW, 4), (ORIGINAL_FEW, 1))
"""The rows of the README's picture."""
Judge = Callable[[Tensor, list[str]], Tensor]
"""(images in [0, 1], prompts) -> scores, higher is better."""


def ways(lora: Path) -> list[Way]:
    """The reference, the original in few steps with the same guidance, and the LoRA as its header asks."""
    header = files.read(lora)
    guidance = teacher_guidance(header)
    few = [Way(ORIGINAL_FEW, Settings(steps=n, guidance_scale=guidance)) for n in STEPS]
    distilled = [Way(DISTILLED, settings_for(header, n), lora) for n in STEPS]
    return [Way(ORIGINAL, Settings(steps=REFERENCE_STEPS, guidance_scale=guidance)), *few, *distilled]


def rows(prompt: str | None, seed: int) -> tuple[list[str], list[int]]:
    """Prompts and seeds: the eight of the demo, or four seeds of one's own."""
    if prompt is None:
        return list(PROMPTS), [seed + i for i in range(len(PROMPTS))]
    return [prompt] * 4, [seed + i for i in range(4)]


def note(drawn: Sequence[Drawn]) -> str:
    """What a person should know who sees the sheet alone."""
    guidance = drawn[0].way.settings.guidance_scale
    return (
        f"The same noise along each row. Original: guidance {guidance:g}, two network evaluations a step. "
        "Distilled: base and one LoRA, one evaluation a step."
    )


def match(judge: Judge, drawn: Drawn, prompts: list[str], others: Sequence[str]) -> tuple[Tensor, Tensor]:
    """How well each picture matches its own prompt, and the mean over prompts that are not its own."""
    own = judge(drawn.images, prompts)
    scores = torch.stack([judge(drawn.images, [other] * len(prompts)) for other in others])
    differs = torch.tensor([[other != prompt for prompt in prompts] for other in others])
    return own, (scores * differs).sum(0) / differs.sum(0)


def metrics(drawn: Sequence[Drawn], prompts: list[str], judge: Judge | None) -> list[dict[str, Any]]:
    """One record a way. `match` is 0 for pictures of something else, 1 for the first way, the reference."""
    records: list[dict[str, Any]] = []
    reference, wrong = match(judge, drawn[0], prompts, PROMPTS) if judge else (torch.ones(1), torch.zeros(1))
    for item in drawn:
        record = {
            "way": item.way.group,
            "steps": item.way.settings.steps,
            "guidance_scale": item.way.settings.guidance_scale,
            "network_evaluations": item.way.evaluations,
            "seconds_per_image": round(item.seconds, 4),
        }
        if judge:
            scores = reference if item is drawn[0] else judge(item.images, prompts)
            record["match"] = float((scores.mean() - wrong.mean()) / (reference.mean() - wrong.mean()))
            record["judge_scores"] = [float(score) for score in scores]
        records.append(record)
    return records
