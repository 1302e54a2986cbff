"""Makes a diffusers folder of what has been trained so far: `StableDiffusionPipeline.from_pretrained` loads it.

    python -m emoji.export --config emoji/cpu.yaml

Works on finished trainings and on checkpoints of running ones. Half precision, shards under 12 MB.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from emoji import autoencoder, base, tokenizer
from emoji.config import BUNDLED, Config, from_command_line
from emoji.sources import STYLES

SHARD = "12MB"
FOLDER = BUNDLED / "emoji-sd"
TOKENIZER_FILES = ("vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer_config.json")


def read_run(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def trained_vae(config: Config) -> tuple[Any, dict[str, Any] | None]:
    """The autoencoder, and its training unless that was another's."""
    if config.start:
        from diffusers import AutoencoderKL

        return AutoencoderKL.from_pretrained(config.start / "vae"), None
    state, vae = read_run(config.work / f"vae-{config.name}" / "run.pt"), autoencoder.new_autoencoder(config)
    vae.load_state_dict(state["modules"]["vae"])
    autoencoder.fix_variance(vae, autoencoder.ENCODER_VARIANCE)
    return vae, state


def trained_nets(config: Config) -> tuple[nn.ModuleDict, dict[str, Any]]:
    """The averaged UNet and text encoder."""
    state = read_run(config.work / f"base-{config.name}" / "run.pt")
    nets = base.new_nets(config)
    nets.load_state_dict(state["modules"]["average"])
    return nets, state


def make_pipeline(config: Config) -> tuple[Any, dict[str, Any]]:
    """The pipeline, and the facts of its training."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline
    from transformers import CLIPTokenizer

    (vae, vae_run), (nets, base_run) = trained_vae(config), trained_nets(config)
    pipeline = StableDiffusionPipeline(
        vae=vae.half().eval(),
        text_encoder=nets["text"].half().eval(),
        tokenizer=CLIPTokenizer.from_pretrained(tokenizer.train(config)),
        unet=nets["unet"].half().eval(),
        scheduler=DDIMScheduler(**base.SCHEDULE, timestep_spacing="leading"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return pipeline, facts(config, vae_run, base_run)


def summary(run: dict[str, Any]) -> dict[str, Any]:
    log = run["log"][:: max(1, len(run["log"]) // 60)]
    return {"updates": run["step"], "minutes": round(run["elapsed"] / 60, 1), "log": log}


def facts(config: Config, vae_run: dict[str, Any] | None, base_run: dict[str, Any]) -> dict[str, Any]:
    """What made it: for training.json and the model card. `before`: the training that this one went on with."""
    before = config.work / f"base-{config.name}" / base.BEFORE
    made = json.loads(before.read_text())["training"] if before.exists() else {}
    if vae_run:
        made["autoencoder"] = summary(vae_run)
    earlier = made.pop("unet and text encoder", None)
    made["unet and text encoder"] = summary(base_run) | ({"before": earlier} if earlier else {})
    styles = [
        {"style": STYLES[key].words, "package": STYLES[key].package, "licence": STYLES[key].licence}
        for key in config.styles
    ]
    batches = {"autoencoder": config.autoencoder.batch, "unet and text encoder": config.base.batch}
    return {
        "size": config.size,
        "guidance_scale": config.base.guidance,
        "batch": batches,
        "pictures": styles,
        "training": made,
    }


def export(config: Config, to: Path = FOLDER) -> Path:
    """Written beside, then swapped in by rename."""
    pipeline, made = make_pipeline(config)
    part = to.with_name(to.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    pipeline.save_pretrained(part, max_shard_size=SHARD)
    for name in TOKENIZER_FILES:
        shutil.copy(tokenizer.train(config) / name, part / "tokenizer" / name)
    (part / "tokenizer" / "tokenizer.json").unlink(missing_ok=True)  # the two files above say the same
    for settings in part.rglob("config.json"):
        forget_origin(settings)
    load_in_full_precision(part / "text_encoder" / "config.json")
    name_as_published(part / "text_encoder" / "model.safetensors")
    for file in part.rglob("*.safetensors"):
        file.chmod(0o644)
    (part / base.FACTS).write_text(json.dumps(made) + "\n")
    swap_in(part, to)
    return to


def swap_in(part: Path, to: Path) -> None:
    """Whenever this is killed, the old folder or the new one is whole: at its place, or beside it as `.old`."""
    old = to.with_name(to.name + ".old")
    if to.exists():
        shutil.rmtree(old, ignore_errors=True)
        to.rename(old)
    part.rename(to)
    shutil.rmtree(old, ignore_errors=True)


def forget_origin(path: Path) -> None:
    """diffusers notes the folder that a network was read from, which is nobody's business."""
    settings = json.loads(path.read_text())
    if settings.pop("_name_or_path", None) is not None:
        path.write_text(json.dumps(settings, indent=2) + "\n")


def load_in_full_precision(path: Path) -> None:
    """transformers 5 loads the type that the configuration names, diffusers fp32: without this they would differ."""
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {"dtype": "float32"}, indent=2) + "\n")


def name_as_published(path: Path) -> None:
    """transformers 5 drops the prefix `text_model.`, without which transformers 4 silently draws random weights.

    Stable Diffusion's own files have it, and both read it.
    """
    weights = {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})


if __name__ == "__main__":
    print(export(from_command_line(__doc__)))
