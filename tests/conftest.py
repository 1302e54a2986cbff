"""Fixtures for every test, and shape checking: here, and only here, jaxtyping annotations are enforced."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

CONTEXT = 8  # width of the tiny text encoder, and so of the UNet's cross-attention
PROMPT_TOKENS = 16


def pytest_configure(config: pytest.Config) -> None:
    """Not for the process that only hands tests out to others."""
    if getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput"):
        return
    before_the_hook()
    install_import_hook("hypersd", "tests.shapes.checked")
    import torch

    torch.set_num_threads(1)  # tiny networks are slower on more, and pytest-xdist runs a process a core


def before_the_hook() -> None:
    """What hypersd imports: whatever is imported while the hook is at work is compiled anew, seconds of it."""
    import accelerate  # noqa: F401
    import diffusers.models  # noqa: F401
    import peft  # noqa: F401
    import scipy.stats  # noqa: F401

    import tests.shapes  # noqa: F401


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import torch

    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            # what it checks exists on a GPU only, and CI has none
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture
def tiny_unet():
    """A random UNet of SD 1.5's architecture, 4 × 8 × 8 latents: the same weights in every test."""
    return make_unet()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Stable Diffusion as a diffusers folder, 16 × 16 pictures. Copy it before you damage it."""
    folder = tmp_path_factory.mktemp("tiny-sd")
    save_folder(folder)
    return folder


@pytest.fixture
def tiny_base(tiny_folder: Path):
    """The base in `tiny_folder`, loaded anew for each test, so that no test sees another's adapters."""
    from hypersd import bases

    return bases.load(tiny_folder, device="cpu")


def make_unet(seed: int = 0):
    import torch
    from diffusers import UNet2DConditionModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            layers_per_block=1,
            block_out_channels=(4, 8),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=CONTEXT,
            attention_head_dim=2,
            norm_num_groups=2,
        )
    return net.requires_grad_(False).eval()


def save_folder(folder: Path) -> None:
    """Writes what `StableDiffusionPipeline.save_pretrained` would, every network random and tiny."""
    import torch
    from diffusers import DDIMScheduler

    from hypersd.bases.sd15 import ddim_config

    vocabulary = save_tokenizer(folder / "tokenizer")
    make_unet().save_pretrained(folder / "unet")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        make_autoencoder().save_pretrained(folder / "vae")
        make_text_encoder(vocabulary).save_pretrained(folder / "text_encoder")
    DDIMScheduler(**ddim_config()).save_pretrained(folder / "scheduler")
    parts = {
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "feature_extractor": [None, None],
        "safety_checker": [None, None],
    }
    index = {"_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.40.0", **parts}
    (folder / "model_index.json").write_text(json.dumps(index))


def make_autoencoder():
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=2,
        sample_size=16,
    )


def make_text_encoder(vocabulary: int):
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=CONTEXT,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=PROMPT_TOKENS,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
    )
    return CLIPTextModel(config)


def save_tokenizer(folder: Path) -> int:
    """A CLIP tokenizer that knows letters, digits, some punctuation and one merge; returns its vocabulary."""
    characters = "abcdefghijklmnopqrstuvwxyz0123456789,.-'!?"
    pieces = [*characters, *(f"{character}</w>" for character in characters), "re", "re</w>"]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("#version: 0.2\nr e\nr e</w>\n")
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": PROMPT_TOKENS,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "do_lower_case": True,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return len(pieces)
