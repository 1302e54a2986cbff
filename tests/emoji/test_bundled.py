"""The bundled base is an ordinary Stable Diffusion folder, and small enough to be tracked."""

from __future__ import annotations

import json

import pytest
import torch

from emoji.base import SCHEDULE
from hypersd import bundled, tensors


@pytest.fixture(scope="module")
def pipeline():
    from diffusers import StableDiffusionPipeline

    found = StableDiffusionPipeline.from_pretrained(bundled.BASE)
    found.set_progress_bar_config(disable=True)
    return found


def test_it_loads_in_full_precision_with_stable_diffusions_schedule(pipeline):
    assert {net.dtype for net in (pipeline.unet, pipeline.vae, pipeline.text_encoder)} == {torch.float32}
    assert SCHEDULE.items() <= dict(pipeline.scheduler.config).items()
    assert pipeline.safety_checker is None
    assert pipeline.vae.config.scaling_factor == 1.0
    assert pipeline.tokenizer.model_max_length == pipeline.text_encoder.config.max_position_embeddings


def test_the_same_seed_draws_the_same_emoji_on_white(pipeline):
    size = json.loads((bundled.BASE / "training.json").read_text())["size"]
    first, again = (
        pipeline(
            "a grinning face, 3D style",
            num_inference_steps=6,
            guidance_scale=4.0,
            generator=torch.Generator().manual_seed(0),
            output_type="np",
        ).images[0]
        for _ in range(2)
    )
    assert first.shape == (size, size, 3)
    assert (first == again).all()
    corners = first[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert corners.min() > 0.85  # the ground
    middle = first[size // 4 : -size // 4, size // 4 : -size // 4].mean((0, 1))
    assert middle[0] - middle[2] > 0.2  # yellow: red well above blue


def test_the_decoder_gives_back_real_pictures(pipeline):
    """Encoder and decoder agree with the latents that the UNet knows: mean 0, variance 1, L1 below 0.05."""
    import numpy as np
    from PIL import Image

    files = sorted((bundled.EVALUATION / "pictures").glob("*.webp"))
    pictures = np.stack([np.asarray(Image.open(file)) for file in files])
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        latents = pipeline.vae.encode(images).latent_dist.mode()
        again = pipeline.vae.decode(latents).sample
    assert (again - images).abs().mean() / 2 < 0.035
    assert latents.mean().abs() < 0.15
    assert 0.7 < latents.var((0, 2, 3)).mean() < 1.4


def test_files_are_small():
    files = [file for file in bundled.ROOT.rglob("*") if file.is_file()]
    assert max(file.stat().st_size for file in files) < 16 * 2**20
    evaluation = sum(file.stat().st_size for file in bundled.EVALUATION.rglob("*") if file.is_file())
    assert evaluation < 3 * 10**6


def test_prompts_are_many_distinct_and_leave_out_what_is_held_out():
    prompts = bundled.PROMPTS.read_text().splitlines()
    captions = tensors.facts(bundled.EVALUATION / "captions.json.gz", "")
    held_out = {captions["texts"][record["caption"]] for record in captions["records"]}
    assert len(held_out) > 400
    assert len(set(prompts)) == len(prompts) >= 900
    assert not set(prompts) & held_out
