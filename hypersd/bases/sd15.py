"""Stable Diffusion 1.x, from a diffusers folder: CLIP text encoder, `UNet2DConditionModel`, `AutoencoderKL`.

The bundled miniature is such a folder; nothing here knows its size.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hypersd import tensors
from hypersd.bases import REMEDY, Cond, Distilled, no_bars, readable_weights
from hypersd.diffusion.schedule import Schedule, from_config
from hypersd.images import clamped

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

# The list that LCM-LoRA was trained on: 278 modules in SD 1.5.
LORA_TARGETS = (
    *("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"),
    *("conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj"),
)
FEW_TOKENS = 256  # 16 x 16 latents
LONGEST_PROMPT = 2000  # characters; what is longer is a pasted file, not a prompt


class _SeenError(Exception):
    """Raised in the middle of the network: every feature is there, and the rest need not run."""


@dataclass
class SD15:
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    schedule: Schedule
    source: str
    autocast: torch.dtype | None = None
    """Dtype of autocast around the UNet: LoRA weights stay in float32."""
    distilled: Distilled | None = None

    _empty: Tensor | None = field(default=None, repr=False)

    family = "sd15"
    lora_targets = LORA_TARGETS

    @property
    def device(self) -> torch.device:
        return next(self.unet.parameters()).device  # diffusers' own property walks all modules: 11 ms with a LoRA

    @property
    def size(self) -> int:
        """Height and width in pixels of the pictures that the base was trained on."""
        return int(self.unet.config.sample_size * self._factor)

    @property
    def _factor(self) -> int:
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    def latent_shape(self, height: int | None = None, width: int | None = None) -> tuple[int, int, int]:
        height, width = height or self.size, width or self.size
        if height % self._factor or width % self._factor or min(height, width) < self._factor:
            raise ValueError(f"height and width must be multiples of {self._factor}, not {height} x {width}")
        return (self.unet.config.in_channels, height // self._factor, width // self._factor)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Cond:
        for prompt in prompts:
            if len(prompt) > LONGEST_PROMPT:
                raise ValueError(
                    f"a prompt of {len(prompt):,} characters is too long: the text encoder reads "
                    f"{self.tokenizer.model_max_length} tokens; keep it under {LONGEST_PROMPT:,} characters"
                )
        tokens = self.tokenizer(list(prompts), padding="max_length")["input_ids"]
        longest = self.tokenizer.model_max_length
        if cut := sum(len(ids) > longest for ids in tokens):
            warnings.warn(f"{cut} of {len(tokens)} prompts are cut after {longest} tokens", stacklevel=2)
            tokens = [[*ids[: longest - 1], ids[-1]] if len(ids) > longest else ids for ids in tokens]
        ids = torch.tensor(tokens, device=self.device)
        return Cond(self.text_encoder(ids)[0].float())

    def null(self, cond: Cond) -> Cond:
        if self._empty is None:
            self._empty = self.encode([""]).tokens
        return Cond(self._empty.to(cond.tokens).expand(len(cond), -1, -1))

    def predict(self, x_t: Tensor, t: Tensor, cond: Cond, told: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.schedule.split(self._output(x_t, t if told is None else told, cond), x_t, t)

    def features(self, x_t: Tensor, t: Tensor, cond: Cond) -> list[Tensor]:
        """Of each down block before it halves the map, and of the middle block, after which nothing is computed."""
        found: list[Tensor] = []

        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            found.append((output[0] if isinstance(output, tuple) else output).float())

        def stop(module: nn.Module, inputs: Any, output: Any) -> None:
            raise _SeenError

        net: Any = self.unet
        deepest = [[*block.resnets, *(getattr(block, "attentions", None) or [])][-1] for block in net.down_blocks]
        hooks = [module.register_forward_hook(keep) for module in (*deepest, net.mid_block)]
        hooks.append(net.mid_block.register_forward_hook(stop))
        try:
            with suppress(_SeenError):
                self._output(x_t, t, cond)
        finally:
            for hook in hooks:
                hook.remove()
        return found

    def _output(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        dtype = self.unet.dtype
        with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
            return self.unet(x_t.to(dtype), t, cond.tokens.to(dtype), return_dict=False)[0]

    @torch.no_grad()
    def to_latents(self, images: Tensor) -> Tensor:
        config = self.vae.config
        latents = self.vae.encode(images.to(self.vae.dtype) * 2 - 1).latent_dist.mode()
        return ((latents - (config.shift_factor or 0.0)) * config.scaling_factor).float()

    def to_images(self, latents: Tensor) -> Tensor:
        config = self.vae.config
        latents = latents / config.scaling_factor + (config.shift_factor or 0.0)
        return clamped(self.vae.decode(latents.to(self.vae.dtype)).sample.float() / 2 + 0.5)

    def pipeline(self) -> StableDiffusionPipeline:
        """A stock diffusers pipeline on these very networks, its DDIM scheduler trailing."""
        from diffusers import DDIMScheduler, StableDiffusionPipeline

        scheduler = DDIMScheduler(**ddim_config(self.schedule.prediction))
        return StableDiffusionPipeline(
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            unet=self.unet,
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )


def ddim_config(prediction: str = "epsilon") -> dict:
    """SD's own scheduler config, trailing: diffusers' DDIM defaults have another β, clip, and end at ᾱ = 1."""
    return {
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "timestep_spacing": "trailing",
        "prediction_type": prediction,
    }


def load(path: Path, device: torch.device, source: str, dtype: torch.dtype = torch.float32) -> SD15:
    """Every part of a diffusers folder, frozen and in evaluation mode, in `dtype` on `device`."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel

    def part(kind: Any, folder: str) -> Any:
        with readable_weights(path / folder), no_bars():
            options = {"use_safetensors": True, "torch_dtype": dtype, "output_loading_info": True}
            net, found = kind.from_pretrained(path / folder, **options)
            if found["missing_keys"]:  # would be left random, with no more than a warning
                raise OSError(f"{sorted(found['missing_keys'])[0]} is not in them")
        return net.requires_grad_(False).eval().to(device)

    schedule = _schedule(path / "scheduler" / "scheduler_config.json")
    unet = part(UNet2DConditionModel, "unet")
    plain_attention(unet)
    return SD15(
        unet=unet,
        vae=part(AutoencoderKL, "vae"),
        text_encoder=part(CLIPTextModel, "text_encoder"),
        tokenizer=_tokenizer(path / "tokenizer"),
        schedule=schedule.to(device),
        source=source,
    )


def plain_attention(unet: UNet2DConditionModel) -> None:
    """Attention as two matrix products, on a CPU with few tokens: the fused kernel's gradient is slower there.

    How much, benchmarks/training_step.py says.
    """
    from diffusers.models.attention_processor import AttnProcessor

    if unet.device.type == "cpu" and unet.config.sample_size**2 <= FEW_TOKENS:
        unet.set_attn_processor(AttnProcessor())


def _schedule(path: Path) -> Schedule:
    config = tensors.facts(path, REMEDY)
    try:
        return from_config(config)
    except (KeyError, TypeError) as error:  # a ValueError is no damage: it says what is not supported
        why = f"no {error} in it" if isinstance(error, KeyError) else error
        raise OSError(f"{path} is damaged ({why}); {REMEDY}") from error


def _tokenizer(folder: Path) -> CLIPTokenizer:
    """Checked first: transformers makes up an empty vocabulary, or no merges, for what is missing."""
    from transformers import CLIPTokenizer

    tensors.facts(folder / "tokenizer_config.json", REMEDY)
    if (folder / "tokenizer.json").is_file():
        tensors.facts(folder / "tokenizer.json", REMEDY)
    else:
        vocabulary = tensors.facts(folder / "vocab.json", REMEDY)
        tensors.merges(folder / "merges.txt", vocabulary, REMEDY)
    return CLIPTokenizer.from_pretrained(folder)
