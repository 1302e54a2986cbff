"""Trains the miniature's text encoder and UNet together, on latents kept in memory.

    python -m emoji.base --config emoji/cpu.yaml [--start hypersd/bundled/emoji-sd]

Stable Diffusion 1.5's own recipe but for size: epsilon prediction on its schedule, 10 % empty
captions for guidance. Losses are weighted by Min-SNR-gamma (Hang et al. 2023, eq. 8: min(SNR, 5)/SNR
for epsilon), which settles shapes first. What is exported is the moving average of the weights.
"""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from emoji import autoencoder, tokenizer
from emoji.captions import draw_caption, levels
from emoji.config import Config, from_command_line
from emoji.dataset import draw_weights, write_bytes
from emoji.training import Run, autocast, device
from hypersd.bases import fast_bfloat16
from hypersd.bases.sd15 import ddim_config, plain_attention
from hypersd.diffusion.schedule import scaled_linear_alphas_cumprod

# Stable Diffusion 1.5's scheduler_config.json, which leaves the spacing to whoever samples
SCHEDULE = {key: value for key, value in ddim_config().items() if key != "timestep_spacing"}
FACTS, BEFORE = "training.json", "before.json"  # of a pipeline; of the one that this training began with


def new_text_encoder(config: Config) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    base = config.base
    settings = CLIPTextConfig(
        vocab_size=base.vocabulary,
        hidden_size=base.text_width,
        intermediate_size=3 * base.text_width,
        num_hidden_layers=base.text_layers,
        num_attention_heads=base.text_width // base.head_width,
        max_position_embeddings=base.text_length,
        projection_dim=base.text_width,
        bos_token_id=base.vocabulary - 2,
        eos_token_id=base.vocabulary - 1,
        pad_token_id=base.vocabulary - 1,
    )
    return CLIPTextModel(settings)


def new_unet(config: Config) -> Any:
    from diffusers import UNet2DConditionModel

    base, attention = config.base, config.base.attention
    down = tuple("CrossAttnDownBlock2D" if attend else "DownBlock2D" for attend in attention)
    up = tuple("CrossAttnUpBlock2D" if attend else "UpBlock2D" for attend in reversed(attention))
    return UNet2DConditionModel(
        sample_size=config.size // 2 ** (len(config.autoencoder.channels) - 1),
        in_channels=config.autoencoder.latent_channels,
        out_channels=config.autoencoder.latent_channels,
        block_out_channels=tuple(base.channels),
        layers_per_block=base.layers,
        down_block_types=down,
        up_block_types=up,
        cross_attention_dim=base.text_width,
        attention_head_dim=tuple(c // base.head_width for c in base.channels),  # diffusers' name for a count
    )


def new_nets(config: Config) -> nn.ModuleDict:
    """UNet and text encoder: random, or those of the pipeline whose training goes on."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel

    if config.start is None:
        return nn.ModuleDict({"unet": new_unet(config), "text": new_text_encoder(config)})
    if not (config.start / "model_index.json").is_file():
        raise FileNotFoundError(f"no pipeline at {config.start}: expected a diffusers folder with model_index.json")
    unet = UNet2DConditionModel.from_pretrained(config.start / "unet")
    text = CLIPTextModel.from_pretrained(config.start / "text_encoder", dtype=torch.float32)
    return nn.ModuleDict({"unet": unet, "text": text}).train()


def remember(start: Path, to: Path) -> None:
    """What is known of the training that goes on: an export may replace it while this one runs."""
    if (start / FACTS).exists():
        write_bytes(to, (start / FACTS).read_bytes())


def alphas_cumprod() -> Float[Tensor, " t"]:
    total, start, end = (SCHEDULE[key] for key in ("num_train_timesteps", "beta_start", "beta_end"))
    return scaled_linear_alphas_cumprod(total, start, end)


def min_snr_weight(alpha_bar: Float[Tensor, " b"], gamma: float) -> Float[Tensor, " b"]:
    """min(SNR, gamma) / SNR: what Min-SNR gives an epsilon loss."""
    snr = alpha_bar / (1 - alpha_bar)
    return snr.clamp(max=gamma) / snr


class Average:
    """Moving average of a module's weights, faster while young."""

    def __init__(self, module: nn.Module, decay: float):
        self.module, self.decay, self.source = copy.deepcopy(module).requires_grad_(False), decay, module

    @torch.no_grad()
    def update(self, step: int) -> None:
        rate = 1 - min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.module.parameters()), list(self.source.parameters()), rate)


def load_latents(config: Config) -> tuple[list[dict[str, Any]], Float[Tensor, "n c h w"], np.ndarray]:
    """Training records, their latents, and how often each is drawn; encoded once and kept.

    The file is what distillation trains on too: `latents` fp16, `weight`, every picture's captions in
    its header, and its alpha as `masks`, which the base does not look at.
    """
    from safetensors.torch import load_file, save_file

    cache = config.work / f"latents-{config.name}" / "latents.safetensors"
    records, pictures = autoencoder.training_pictures(config)
    if not cache.exists():
        weight = torch.from_numpy(draw_weights(records, config.concept_power, config.weights)).float()
        tensors = {
            "latents": autoencoder.latents_of(pictures, config).half().contiguous(),
            "weight": weight,
            "masks": torch.from_numpy(autoencoder.masks(config, records)),
        }
        cache.parent.mkdir(parents=True, exist_ok=True)
        part = cache.with_suffix(".part")
        save_file(tensors, part, metadata={"captions": json.dumps([levels(r) for r in records], ensure_ascii=False)})
        part.replace(cache)
    tensors = load_file(cache)
    chances = tensors["weight"].double().numpy()
    return records, tensors["latents"].float().to(device()), chances / chances.sum()


def train(config: Config) -> Path:
    """The checkpoint of a finished training; `emoji.export` makes a pipeline of it."""
    from transformers import CLIPTokenizer

    base, done = config.base, config.work / f"base-{config.name}" / "done"
    path = done.with_name("run.pt")
    if done.exists():
        return path
    if config.start and not path.exists():
        remember(config.start, done.with_name(BEFORE))
    words = CLIPTokenizer.from_pretrained(tokenizer.train(config))
    records, latents, chances = load_latents(config)
    torch.manual_seed(config.seed)
    nets = new_nets(config).to(device())
    plain_attention(nets["unet"])
    nets["text"].set_attn_implementation("eager")
    average = Average(nets, base.ema)
    run = Run({"nets": nets}, lr=base.lr, steps=base.steps, minutes=base.minutes, path=path)
    run.extra["average"] = average.module
    alpha_bars, importance = alphas_cumprod().to(device()), latents.std((0, 2, 3))

    def loss(step: int) -> dict[str, Tensor]:
        """Draws depend on seed and step alone, so a resumed run draws what it would have drawn."""
        rng, words_rng = np.random.default_rng((config.seed, step)), random.Random(f"{config.seed} {step}")
        torch.manual_seed(config.seed * 10**8 + step)
        chosen = rng.choice(len(records), base.batch, p=chances)
        texts = ["" if words_rng.random() < base.empty else draw_caption(records[i], words_rng) for i in chosen]
        tokens = words(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids.to(device())
        x0 = latents[torch.from_numpy(chosen)]
        return denoising_loss(nets, x0, tokens, alpha_bars, base.min_snr, importance)

    run.train(loss, after=lambda: average.update(run.step))
    done.touch()
    return path


def denoising_loss(
    nets: nn.ModuleDict,
    x0: Float[Tensor, "b c h w"],
    tokens: Tensor,
    alpha_bars: Float[Tensor, " t"],
    gamma: float,
    importance: Float[Tensor, " c"],
) -> dict[str, Tensor]:
    """Weighted ||eps - eps_theta(x_t, t, c)||^2 with t uniform; `importance` of the channels has them learn
    coarse components before fine ones, and moves no optimum."""
    t = torch.randint(0, len(alpha_bars), (len(x0),), device=x0.device)
    alpha_bar, eps = alpha_bars[t], torch.randn_like(x0)
    x_t = alpha_bar.sqrt()[:, None, None, None] * x0 + (1 - alpha_bar).sqrt()[:, None, None, None] * eps
    with autocast(fast_bfloat16(x0.device)):
        text = nets["text"](tokens).last_hidden_state
        out = nets["unet"](x_t, t, text).sample.float()
    error = (out - eps).square().mean((2, 3))
    weighted = min_snr_weight(alpha_bar, gamma) * (error * importance / importance.mean()).mean(1)
    return {"loss": weighted.mean(), "mse": error.mean().detach()}


if __name__ == "__main__":
    print(train(from_command_line(__doc__)))
