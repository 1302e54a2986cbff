"""LoRA files: what is written is what any reader reads."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from hypersd.bases.sd15 import LORA_TARGETS
from hypersd.bundled import LORA
from hypersd.draw.pipeline import Drawer, Settings
from hypersd.lora import files
from hypersd.lora.roles import Roles

RECIPE, SAMPLER = {"name": "test"}, {"name": "ddim", "steps": [1, 2, 4, 8], "guidance_scale": 1.0}


def make(base, path, rank=2, alpha=None, seed=0):
    roles = Roles(base.unet)
    roles.add("student", rank, LORA_TARGETS, alpha)
    generator = torch.Generator().manual_seed(seed)
    roles.load(
        "student",
        {k: 0.3 * torch.randn(v.shape, generator=generator) for k, v in roles.state("student").items()},
    )
    shape, base_shape = roles.shape("student"), files.fingerprint(base.unet)
    files.write(path, roles.state("student"), shape, base_shape, RECIPE, SAMPLER, torch.float32)
    return roles


def test_round_trip_keeps_weights_and_header(tiny_base, tmp_path):
    path = tmp_path / "lora.safetensors"
    roles = make(tiny_base, path)
    file = files.read(path)
    assert file.rank == 2
    assert (file.recipe, file.sampler) == (RECIPE, SAMPLER)
    state = roles.state("student")
    assert file.targets == tuple(sorted({name.rpartition(".lora_")[0] for name in state}))
    assert file.weights.keys() == state.keys()
    assert all(torch.equal(file.weights[name], state[name]) for name in state)


def test_alpha_is_folded_so_that_scale_one_is_right(tiny_base, tiny_folder, tmp_path):
    from hypersd import bases

    path = tmp_path / "lora.safetensors"
    roles = make(tiny_base, path, rank=4, alpha=1.0)
    settings = Settings(steps=2)
    trained = Drawer(tiny_base, roles=roles)
    trained.playing = ("student",)
    with safe_open(path, "pt") as file:
        adapter = json.loads(file.metadata()["lora_adapter_metadata"])
    assert adapter["unet.r"] == adapter["unet.lora_alpha"] == 4
    read = Drawer(bases.load(tiny_folder, "cpu"), path)
    expected, got = (drawer.latents(["a red bird"], [3], settings) for drawer in (trained, read))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def drawn_twice(folder, path, steps):
    """The same latents by us, and by diffusers' own loader, scheduler and loop."""
    from hypersd import bases

    ours = Drawer(bases.load(folder, "cpu"), path).latents(["a bird"], [7], Settings(steps=steps))
    pipeline = bases.load(folder, "cpu").pipeline()
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_lora_weights(str(path))
    how = {"num_inference_steps": steps, "guidance_scale": 1.0, "output_type": "latent"}
    return ours, pipeline("a bird", generator=torch.Generator().manual_seed(7), **how).images


def rewrite(path, change, **adapter):
    """The file as another program might have written it."""
    with safe_open(path, "pt") as file:
        tensors = {key: change(key, file.get_tensor(key)) for key in file.keys()}  # noqa: SIM118
        said = json.loads(file.metadata()["lora_adapter_metadata"])
    said |= {f"unet.{key}": value for key, value in adapter.items()}
    save_file(tensors, path, {"format": "pt", "lora_adapter_metadata": json.dumps(said)})


def test_a_stock_pipeline_loads_the_file_and_draws_the_same(tiny_folder, tiny_base, tmp_path):
    """The file needs nothing of this package."""
    path = tmp_path / "lora.safetensors"
    make(tiny_base, path)
    ours, theirs = drawn_twice(tiny_folder, path, steps=4)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("path", [None, LORA], ids=["written", "bundled"])
def test_older_diffusers_finds_what_it_asks_for(tiny_base, tmp_path, path):
    """diffusers 0.35 reads these keys without asking whether they are there."""
    if path is None:
        make(tiny_base, path := tmp_path / "lora.safetensors")
    with safe_open(path, "pt") as file:
        said = json.loads(file.metadata()["lora_adapter_metadata"])
    asked = {"r", "lora_alpha", "rank_pattern", "alpha_pattern", "target_modules"}
    assert said.keys() == {f"unet.{key}" for key in asked}


@pytest.mark.parametrize("more", [{}, {"alpha_pattern": {"to_q": 1.0}}, {"use_rslora": True}], ids=str)
def test_the_alpha_of_others_is_kept(tiny_folder, tiny_base, tmp_path, more):
    """A LoRA whose header says alpha 0.25 of rank 2, as PEFT writes it: drawn as by the stock pipeline."""
    path = tmp_path / "lora.safetensors"
    make(tiny_base, path)
    rewrite(path, lambda key, tensor: tensor, lora_alpha=0.25, **more)
    ours, theirs = drawn_twice(tiny_folder, path, steps=2)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_layers_of_different_ranks_are_kept(tiny_folder, tiny_base, tmp_path):
    path = tmp_path / "lora.safetensors"
    make(tiny_base, path)

    def narrow(key, tensor):
        if "to_q" not in key:
            return tensor
        return (tensor[:1] if "lora_A" in key else tensor[:, :1]).contiguous()

    rewrite(path, narrow, rank_pattern={"to_q": 1}, alpha_pattern={"to_q": 1})
    ours, theirs = drawn_twice(tiny_folder, path, steps=2)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_halves_that_do_not_match_are_refused(tiny_base, tmp_path):
    path = tmp_path / "lora.safetensors"
    make(tiny_base, path)
    rewrite(path, lambda key, tensor: tensor[:1].contiguous() if "to_k.lora_A" in key else tensor)
    with pytest.raises(ValueError, match=r"lora.safetensors is not a whole LoRA: its A and B of .*to_k do not match"):
        files.read(path)


def test_the_digest_of_a_base_knows_weights_and_neither_precision_nor_loras(tiny_folder, tiny_base):
    from hypersd import bases

    fresh = bases.load(tiny_folder, "cpu").unet
    said = files.fingerprint(fresh)["weights"]
    roles = Roles(fresh)
    roles.add("student", 2, LORA_TARGETS)
    assert files.fingerprint(fresh)["weights"] == said
    assert files.fingerprint(bases.load(tiny_folder, "cpu").unet.half())["weights"] == said
    with torch.no_grad():
        next(fresh.parameters()).add_(0.01)
    assert files.fingerprint(fresh)["weights"] != said


def test_scale_zero_is_the_base_to_the_bit(tiny_folder, tiny_base, tmp_path):
    from hypersd import bases

    path = tmp_path / "lora.safetensors"
    make(tiny_base, path)
    settings = Settings(steps=2)
    base = Drawer(bases.load(tiny_folder, "cpu")).latents(["a bird"], [0], settings)
    off = Drawer(bases.load(tiny_folder, "cpu"), path, scale=0.0).latents(["a bird"], [0], settings)
    on = Drawer(bases.load(tiny_folder, "cpu"), path).latents(["a bird"], [0], settings)
    assert torch.equal(base, off)
    assert not torch.equal(base, on)


def test_a_lora_of_another_base_is_refused(tiny_base, tmp_path):
    from hypersd import bases

    path = tmp_path / "lora.safetensors"
    make(tiny_base, path)
    with pytest.raises(ValueError, match="another base"):
        files.check_fits(files.read(path), bases.load("toy").unet, path.name)
