"""Pictures -> tokenizer -> autoencoder -> base -> diffusers folder -> going on from that folder, at toy size."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from emoji import autoencoder, base, export, sheets, tokenizer
from emoji.config import AutoencoderConfig, BaseConfig, Config
from emoji.dataset import RECORDS
from hypersd.judges.emoji import PIXELS
from tests.emoji.test_dataset import disc

COLOURS = {"red apple": (220, 30, 30, 255), "green apple": (40, 180, 60, 255), "cook": (250, 200, 60, 255)}


def write_pictures(work: Path) -> None:
    shard, places = sheets.pack([disc(colour, 16) for colour in COLOURS.values()])
    words = {"style": "flat", "words": "flat style", "part": "train", "tone": None, "gender": None, "group": 4}
    records = [
        {**words, **place, "concept": name, "name": name, "tags": ["round"]}
        for name, place in zip(COLOURS, places, strict=True)
    ]
    (work / "dataset-16").mkdir(parents=True)
    (work / "dataset-16" / "flat.shard").write_bytes(shard)
    (work / "dataset-16" / RECORDS).write_bytes(gzip.compress(json.dumps(records).encode()))


def tiny(work: Path, start: Path | None = None, updates: int = 2) -> Config:
    return Config(
        size=16,
        stored_size=16,
        styles=["flat"],
        start=start,
        autoencoder=AutoencoderConfig(channels=[8, 16], latent_channels=4, batch=2, steps=2),
        base=BaseConfig(
            channels=[32, 64], attention=[False, True], text_width=32, text_layers=1, vocabulary=520,
            batch=2, steps=updates,
        ),
        work=work,
    )  # fmt: skip


def make(config: Config, to: Path) -> Path:
    tokenizer.train(config)
    autoencoder.train(config)
    base.train(config)
    return export.export(config, to)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    work = tmp_path_factory.mktemp("first")
    write_pictures(work)
    return make(tiny(work), work / "pipeline")


def unet_of(folder: Path):
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel.from_pretrained(folder / "unet").state_dict()


def test_a_pipeline_comes_out_that_diffusers_draws_with(first):
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(first)
    pipeline.set_progress_bar_config(disable=True)
    picture = pipeline("a red apple", num_inference_steps=2, output_type="np").images[0]
    assert picture.shape == (16, 16, 3)
    facts = json.loads((first / base.FACTS).read_text())
    assert {name: made["updates"] for name, made in facts["training"].items()} == {
        "autoencoder": 2,
        "unet and text encoder": 2,
    }


def test_training_goes_on_from_a_pipeline(first, tmp_path):
    """Its tokenizer and autoencoder stay as they are, its UNet is where training begins, and its past is told."""
    write_pictures(tmp_path)
    config = tiny(tmp_path, start=first, updates=1)
    begun, before = base.new_nets(config)["unet"].state_dict(), unet_of(first)
    assert all(torch.equal(begun[name], tensor) for name, tensor in before.items())
    second = make(config, tmp_path / "pipeline")
    for part in ("tokenizer/vocab.json", "vae/diffusion_pytorch_model.safetensors"):
        assert (second / part).read_bytes() == (first / part).read_bytes()
    after = unet_of(second)
    moved = max((after[name] - tensor).abs().max() for name, tensor in before.items())
    assert 0 < moved < 0.1
    assert str(first) not in "".join(path.read_text() for path in second.rglob("*.json"))
    made = json.loads((second / base.FACTS).read_text())["training"]
    assert made["autoencoder"]["updates"] == 2
    assert made["unet and text encoder"]["updates"] == 1
    assert made["unet and text encoder"]["before"]["updates"] == 2


def test_the_latents_of_a_pipelines_own_autoencoder_are_learnt_from(first, tmp_path):
    from diffusers import AutoencoderKL

    write_pictures(tmp_path)
    config = tiny(tmp_path, start=first)
    records, pictures = autoencoder.training_pictures(config)
    with torch.no_grad():
        vae = AutoencoderKL.from_pretrained(first / "vae")
        mean = vae.encode(autoencoder.to_signed(pictures)).latent_dist.mean
    found = base.load_latents(config)[1]
    assert len(found) == len(records) == len(COLOURS)
    torch.testing.assert_close(found, mean, atol=2e-3, rtol=1e-3)


def test_alpha_is_kept_beside_the_latents(first):
    from safetensors.torch import load_file

    kept = load_file(next(first.parent.glob("latents-*/latents.safetensors")))
    assert kept["masks"].shape == (len(COLOURS), 1, PIXELS, PIXELS)
    drawn = disc((0, 0, 0, 255), 16).resize((PIXELS, PIXELS)).getchannel("A")
    error = kept["masks"].float() - torch.from_numpy(np.array(drawn, dtype=np.float32))
    assert error.abs().mean() < 12  # of 255: alpha is stored coarsely


def test_a_missing_start_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="no pipeline at"):
        base.new_nets(tiny(tmp_path, start=tmp_path / "nowhere"))


def folder_with(path: Path, word: str) -> Path:
    path.mkdir()
    (path / "which").write_text(word)
    return path


def test_an_export_that_is_killed_leaves_the_old_folder_or_the_new(tmp_path, monkeypatch):
    to, part = folder_with(tmp_path / "base", "old"), folder_with(tmp_path / "base.part", "new")
    rename, renamed = Path.rename, []

    def killed(self: Path, target: Path) -> Path:
        renamed.append((self.name, target.name))
        if len(renamed) == 2:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        export.swap_in(part, to)
    assert renamed == [("base", "base.old"), ("base.part", "base")]
    assert (tmp_path / "base.old" / "which").read_text() == "old"
    assert (part / "which").read_text() == "new"
    export.swap_in(part, to)
    assert (to / "which").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["base"]
