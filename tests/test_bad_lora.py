"""LoRAs that do not fit, are damaged or are none, through the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from hypersd import bases
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


# merging


def test_merges_that_cannot_be(lora: Path) -> None:
    for option, value, *words in (
        ("--strengths", "1,x", "--strengths wants numbers", "such as 1,0.7", "'1,x'"),
        ("--strengths", "1", "--strengths wants a number for each of the 2 LoRAs", "'1'"),
        ("--strengths", "1,inf", "strength of a LoRA must be a number", "not inf"),
        ("--strengths", "1,1e9", "is not finite as torch.float16", "--dtype fp32"),
        ("--rank", "0", "rank of a LoRA must be 1 or more, not 0"),
        ("--dtype", "fp8", "--dtype wants fp16 or fp32, not 'fp8'"),
        ("--out", "m.ckpt", "--out must name a .safetensors file, not 'm.ckpt'"),
    ):
        refused(["merge", lora, lora, "--out", "m.safetensors", option, value], MISTAKE, *words)
    refused(["merge", lora, "--out", "m.safetensors"], MISTAKE, "nothing to merge: name two LoRAs or more")


def test_a_merge_does_not_overwrite_its_own_parts(lora: Path) -> None:
    before = lora.read_bytes()
    refused(["merge", "bundled", lora, "--out", lora], MISTAKE, "good.safetensors is one of the files to merge")
    assert lora.read_bytes() == before


def test_a_merge_of_two_bases(lora: Path, tiny_base, tmp_path: Path) -> None:
    shape = {"cross_attention_dim": 768}
    said = (
        "good.safetensors was trained on another base: its cross_attention_dim is 8, that of other.safetensors is 768"
    )
    other = write_lora(bases.load(tiny_base.source, "cpu"), tmp_path / "other.safetensors", shape=shape)
    refused(["merge", other, lora, "--out", "m.safetensors"], MISTAKE, said, "use LoRAs of one base together")


def test_a_merge_of_other_widths_that_names_no_base(lora: Path, tmp_path: Path) -> None:
    tensors = {
        name: torch.zeros(*t.shape[:-1], 8) if "to_q.lora_A" in name else t for name, t in load_file(lora).items()
    }
    save_file(tensors, tmp_path / "other.safetensors", {"format": "pt"})
    words = ["other.safetensors was trained on another base", "attn1.to_q is [4, 8]", "good.safetensors is [4, 4]"]
    refused(["merge", lora, tmp_path / "other.safetensors", "--out", "m.safetensors"], MISTAKE, *words)


def test_a_merge_of_what_cannot_be_read(lora: Path, tmp_path: Path) -> None:
    command = ["merge", lora, "--out", "m.safetensors"]
    refused([*command, "none"], FAILURE, "no LoRA file at none")
    pickled, cut = tmp_path / "lora.pt", tmp_path / "cut.safetensors"
    torch.save(Bomb(tmp_path / "opened"), pickled)
    refused([*command, pickled], MISTAKE, "lora.pt is not a safetensors file")
    cut.write_bytes(lora.read_bytes()[:-5])
    refused([*command, cut], FAILURE, "cut.safetensors is damaged")
    assert not (tmp_path / "opened").exists()
    broken = {name: tensor * float("nan") for name, tensor in load_file(lora).items()}
    save_file(broken, cut, {"format": "pt"})
    refused([*command, cut], MISTAKE, "is not finite as torch.float16", "a LoRA is broken")
