"""Trains the miniature's AutoencoderKL towards latents that are known beforehand.

    python -m emoji.autoencoder --config emoji/cpu.yaml

The latents are the principal components of the picture's patches (8 x 8 pixels, 16 components):
they keep hue and shape from the first update, where an autoencoder trained freely on two CPU cores
had learnt no hue after a thousand updates. So encoder and decoder are two separate regressions, and
the UNet can train on the components before either is done. The encoder learns the projection; the
decoder turns noisy components into a sharp picture (L1 on pixels and on their differences).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from emoji.config import Config, from_command_line
from emoji.dataset import build, draw_weights, load_pictures, on_white, read_records
from emoji.training import Run, autocast, device
from hypersd.judges.emoji import PIXELS

LATENT_NOISE = 0.15  # at most; so that the decoder forgives what a diffusion model gets wrong
EDGE = 1.0
FIT_ON = 2000  # pictures
ENCODER_EVERY = 3  # drawing needs the decoder alone, so the encoder gets a third of the updates
ENCODER_VARIANCE = 1e-3
CHUNK = 64


def new_autoencoder(config: Config) -> Any:
    from diffusers import AutoencoderKL

    settings, depth = config.autoencoder, len(config.autoencoder.channels)
    return AutoencoderKL(
        block_out_channels=tuple(settings.channels),
        down_block_types=("DownEncoderBlock2D",) * depth,
        up_block_types=("UpDecoderBlock2D",) * depth,
        latent_channels=settings.latent_channels,
        layers_per_block=settings.layers,
        norm_num_groups=settings.groups,
        sample_size=config.size,
        scaling_factor=1.0,
    )


def edges(images: Float[Tensor, "b c h w"]) -> tuple[Tensor, Tensor]:
    """Differences of neighbours, across and down."""
    return images.diff(dim=-1), images.diff(dim=-2)


def to_signed(pictures: np.ndarray) -> Float[Tensor, "b 3 h w"]:
    """uint8 RGB (b, h, w, 3) -> [-1, 1]."""
    return torch.from_numpy(pictures).to(device()).permute(0, 3, 1, 2).float() / 127.5 - 1


def as_patches(images: Float[Tensor, "b 3 h w"], patch: int) -> Float[Tensor, "n f"]:
    return images.unfold(2, patch, patch).unfold(3, patch, patch).permute(0, 2, 3, 1, 4, 5).reshape(-1, 3 * patch**2)


def fit_components(images: Float[Tensor, "b 3 h w"], patch: int, count: int) -> dict[str, Tensor]:
    """`filters` (count, 3, patch, patch) and `bias` (count) of the convolution that makes latents.

    Each component's deviation becomes its square root, then all are scaled to a mean variance of 1:
    the coarse ones stay larger than the fine ones, as in any picture, but no longer by 13 to 1.
    """
    patches = as_patches(images, patch)
    mean = patches.mean(0)
    axes, variances, _ = torch.linalg.svd((patches - mean).T @ (patches - mean) / len(patches))
    std = variances[:count].sqrt()
    rows = axes[:, :count].T / (std * std.mean()).sqrt()[:, None]
    return {"filters": rows.reshape(count, 3, patch, patch).contiguous(), "bias": -rows @ mean}


def project(images: Float[Tensor, "b 3 h w"], basis: dict[str, Tensor]) -> Float[Tensor, "b c p q"]:
    """Pictures in [-1, 1] -> their latents."""
    return nn.functional.conv2d(images, basis["filters"], basis["bias"], stride=basis["filters"].shape[-1])


def decoder_loss(vae: Any, images: Float[Tensor, "b 3 h w"], latents: Float[Tensor, "b c p q"]) -> dict[str, Tensor]:
    noise = LATENT_NOISE * torch.rand(len(latents), 1, 1, 1, device=latents.device)
    with autocast(images.is_cuda):  # these CPUs run such small layers faster in fp32
        out = vae.decoder(vae.post_quant_conv(latents + noise * torch.randn_like(latents))).float()
    pixel = (out - images).abs().mean()
    edge = sum((a - b).abs().mean() for a, b in zip(edges(out), edges(images), strict=True))
    return {"loss": pixel + EDGE * edge, "l1": pixel.detach() / 2, "edge": edge.detach()}


def encoder_loss(vae: Any, images: Float[Tensor, "b 3 h w"], latents: Float[Tensor, "b c p q"]) -> Tensor:
    """Squared error of the posterior's mean."""
    with autocast(images.is_cuda):
        mean = vae.quant_conv(vae.encoder(images)).float().chunk(2, dim=1)[0]
    return (mean - latents).square().mean()


@torch.no_grad()
def project_all(pictures: np.ndarray, basis: dict[str, Tensor]) -> Float[Tensor, "n c h w"]:
    """The latents of RGB pictures, fp32, on the CPU."""
    chunks = (to_signed(pictures[i : i + CHUNK]) for i in range(0, len(pictures), CHUNK))
    return torch.cat([project(chunk, basis).cpu() for chunk in chunks])


@torch.no_grad()
def fix_variance(vae: Any, variance: float) -> None:
    """Makes the posterior's log-variance a constant: nothing trains it here."""
    channels = vae.config.latent_channels
    vae.quant_conv.weight[channels:].zero_()
    vae.quant_conv.bias[channels:].fill_(math.log(variance))


def training_pictures(config: Config) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Records and RGB pictures of what may be trained on; decoded once and kept."""
    folder, cache = build(config), config.work / f"pictures-{config.name}.npy"
    records = [r for r in read_records(folder, config.styles) if r["part"] == "train"]
    if not cache.exists():
        part = cache.with_suffix(".part.npy")
        np.save(part, on_white(load_pictures(folder, records, config.size)))
        part.replace(cache)
    return records, np.load(cache)


def masks(config: Config, records: list[dict[str, Any]]) -> np.ndarray:
    """Alpha of the records' pictures, uint8 (n, 1, h, w), at the size that judge A draws masks in."""
    return load_pictures(build(config), records, PIXELS)[:, None, :, :, 3].copy()


def components(config: Config) -> dict[str, Tensor]:
    """The patch components of the training pictures, fitted once and kept."""
    from safetensors.torch import load_file, save_file

    path = config.work / f"components-{config.name}.safetensors"
    if not path.exists():
        records, pictures = training_pictures(config)
        chances = draw_weights(records, config.concept_power, config.weights)
        chosen = np.random.default_rng(config.seed).choice(len(records), FIT_ON, p=chances)
        patch = 2 ** (len(config.autoencoder.channels) - 1)
        basis = fit_components(to_signed(pictures[chosen]), patch, config.autoencoder.latent_channels)
        save_file({name: tensor.cpu() for name, tensor in basis.items()}, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)
    return {name: tensor.to(device()) for name, tensor in load_file(path).items()}


@torch.no_grad()
def encode_all(pictures: np.ndarray, folder: Path) -> Float[Tensor, "n c h w"]:
    """The latents that a finished autoencoder gives RGB pictures (the posterior's mean), fp32, on the CPU."""
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(folder).to(device()).eval()
    chunks = (to_signed(pictures[i : i + CHUNK]) for i in range(0, len(pictures), CHUNK))
    return torch.cat([vae.encode(chunk).latent_dist.mean.cpu() for chunk in chunks])


def latents_of(pictures: np.ndarray, config: Config) -> Float[Tensor, "n c h w"]:
    """What the UNet learns to draw."""
    if config.start:
        return encode_all(pictures, config.start / "vae")
    return project_all(pictures, components(config))


def train(config: Config) -> Path:
    """The folder of the finished autoencoder."""
    if config.start:
        return config.start / "vae"
    out, settings = config.work / f"vae-{config.name}", config.autoencoder
    if (out / "config.json").exists():
        return out
    torch.manual_seed(config.seed)
    records, pictures = training_pictures(config)
    basis, chances = components(config), draw_weights(records, config.concept_power, config.weights)
    vae = new_autoencoder(config).to(device(), memory_format=torch.channels_last)
    run = Run({"vae": vae}, lr=settings.lr, steps=settings.steps, minutes=settings.minutes, path=out / "run.pt")

    def loss(step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((config.seed, step))
        images = to_signed(pictures[rng.choice(len(records), settings.batch, p=chances)])
        latents = project(images, basis)
        terms = decoder_loss(vae, images, latents)
        if step % ENCODER_EVERY == 0:
            error = encoder_loss(vae, images, latents)
            terms |= {"loss": terms["loss"] + error, "encoder": error.detach() * ENCODER_EVERY}
        return terms

    run.train(loss)
    fix_variance(vae, ENCODER_VARIANCE)
    export(vae, out)
    return out


def export(vae: Any, out: Path) -> None:
    """config.json comes last: it says that the folder is complete."""
    vae.save_pretrained(out / "part")
    for file in sorted((out / "part").iterdir(), reverse=True):
        if file.name != "config.json":
            file.replace(out / file.name)
    (out / "part" / "config.json").replace(out / "config.json")


if __name__ == "__main__":
    print(train(from_command_line(__doc__)))
