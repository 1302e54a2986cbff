"""LoRAs that do not fit, are damaged or are none, through the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from hypersd.cli import app
from hypersd.cli.errors import FAILURE, MISTAKE
from hypersd.lora import files
from tests.loras import write_lora
from tests.test_bad_input import WEIGHTS, Bomb, base, here, lora, refused

__all__ = ["base", "here", "lora"]  # fixtures


def test_no_such_lora(base: Path) -> None:
    refused(
        ["sample", "a fox", "--base", base, "--lora", "no.safetensors"],
        FAILURE,
        "no LoRA file at no.safetensors",
    )


@pytest.mark.parametrize("kept", [0, 5, 0.5, 0.99])
def test_a_truncated_lora(base: Path, lora: Path, kept: float) -> None:
    data = lora.read_bytes()
    lora.write_bytes(data[: kept if isinstance(kept, int) else int(kept * len(data))])
    refused(["sample", "a fox", "--base", base, "--lora", lora], FAILURE, "good.safetensors is damaged")


def test_a_lora_for_another_base(base: Path, tiny_base, tmp_path: Path) -> None:
    shape = {"cross_attention_dim": 768}
    other = write_lora(tiny_base, tmp_path / "other.safetensors", shape=shape)
    words = ["other.safetensors was trained on another base", "cross_attention_dim is 768", "--base"]
    refused(["sample", "a fox", "--base", base, "--lora", other], MISTAKE, *words)


def test_a_lora_of_other_widths_that_names_no_base(base: Path, lora: Path) -> None:
    """As a third party's: nothing in its header, the same modules, other sizes."""
    tensors = {
        name: torch.zeros(*t.shape[:-1], 8) if "to_q.lora_A" in name else t for name, t in load_file(lora).items()
    }
    save_file(tensors, lora, {"format": "pt"})
    words = ["good.safetensors was trained on another base", "attn1.to_q is [4, 8]", "--base"]
    refused(["sample", "a fox", "--base", base, "--lora", lora], MISTAKE, *words)


def test_a_lora_that_wants_another_prediction(base: Path, tiny_base, tmp_path: Path) -> None:
    shape = files.fingerprint(tiny_base.unet, "v_prediction")
    other = write_lora(tiny_base, tmp_path / "other.safetensors", shape=shape)
    words = ["trained on another base", "prediction is v_prediction"]
    refused(["sample", "a fox", "--base", base, "--lora", other], MISTAKE, *words)


def test_a_lora_of_a_fine_tune_is_drawn_with_a_notice(base: Path, tiny_base, tmp_path: Path) -> None:
    shape = {**files.fingerprint(tiny_base.unet), "weights": "0" * 12}
    other = write_lora(tiny_base, tmp_path / "other.safetensors", shape=shape)
    result = CliRunner().invoke(
        app, ["sample", "a fox", "--base", str(base), "--lora", str(other), "--steps", "1", "--out", "fox.png"]
    )
    assert result.exit_code == 0, result.output
    assert "notice: other.safetensors was trained on other weights of the same shape" in result.stderr


def test_a_lora_that_also_changes_the_text_encoder(base: Path, lora: Path) -> None:
    tensors = load_file(lora)
    extra = {"text_encoder.layers.0.q_proj.lora_A.weight": torch.zeros(2, 8)}
    save_file({**tensors, **extra}, lora, {"format": "pt"})
    refused(["sample", "a fox", "--base", base, "--lora", lora], MISTAKE, "text encoder", "UNet alone")


@pytest.mark.parametrize("key", ["lora_adapter_metadata", "hyper.base", "hyper.recipe", "hyper.sampler"])
def test_a_lora_with_a_damaged_header(base: Path, lora: Path, key: str) -> None:
    save_file(load_file(lora), lora, {"format": "pt", key: '{"a'})
    refused(["sample", "a fox", "--base", base, "--lora", lora], FAILURE, "good.safetensors is damaged", key)


def test_a_lora_on_the_toy(lora: Path) -> None:
    refused(["sample", "a fox", "--base", "toy", "--lora", lora], MISTAKE, "trained on another base")


def test_weights_that_are_no_lora(base: Path) -> None:
    weights = base / "vae" / WEIGHTS["vae"]
    refused(["sample", "a fox", "--base", base, "--lora", weights], MISTAKE, "not a LoRA in the diffusers layout")


@pytest.mark.parametrize("ending", [".pt", ".bin", ".ckpt"])
def test_a_lora_that_is_a_pickle_is_not_opened(base: Path, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"lora{ending}"
    torch.save(Bomb(tmp_path / "opened"), path)
    words = ["not a safetensors file", "any code"]
    refused(["sample", "a fox", "--base", base, "--lora", path], MISTAKE, *words)
    renamed = path.rename(path.with_suffix(".safetensors"))
    refused(["sample", "a fox", "--base", base, "--lora", renamed], FAILURE, "lora.safetensors is damaged")
    assert not (tmp_path / "opened").exists()
