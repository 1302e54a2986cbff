"""Pictures depend on prompt and seed alone; settings come from the LoRA's header; guidance 0 is off."""

from __future__ import annotations

import pytest
import torch

from hypersd import bases
from hypersd.diffusion import samplers
from hypersd.draw import pipeline
from hypersd.draw.pipeline import BASE_GUIDANCE, Drawer, Settings, check_steps, settings_for
from hypersd.lora import files
from tests.loras import write_lora

PROMPTS = ["a fox", "a red apple", "a rocket"]
SEEDS = [5, 6, 7]


@pytest.mark.parametrize("sampler", ["ddim", "tcd", "lcm"])
def test_a_picture_does_not_depend_on_its_batch(tiny_base, sampler: str) -> None:
    drawer, settings = Drawer(tiny_base), Settings(steps=3, sampler=sampler, guidance_scale=2.0)
    together = drawer.draw(PROMPTS, SEEDS, settings)
    turned_round = drawer.draw(PROMPTS[::-1], SEEDS[::-1], settings).flip(0)
    alone = torch.cat([drawer.draw([p], [s], settings) for p, s in zip(PROMPTS, SEEDS, strict=True)])
    assert torch.allclose(together, alone, atol=1e-5)
    assert torch.allclose(together, turned_round, atol=1e-5)
    assert (together[0] - together[1]).abs().max() > 1e-2


def test_a_picture_is_the_same_bit_for_bit_when_drawn_again(tiny_base) -> None:
    drawer, settings = Drawer(tiny_base), Settings(steps=2, sampler="tcd")
    assert torch.equal(drawer.draw(PROMPTS, SEEDS, settings), drawer.draw(PROMPTS, SEEDS, settings))


def test_guidance_0_is_off_with_a_notice(tiny_base) -> None:
    drawer = Drawer(tiny_base)
    with pytest.warns(UserWarning, match="guidance_scale 0 means off"):
        zero = drawer.draw(["a fox"], [0], Settings(steps=2, guidance_scale=0))
    assert torch.equal(zero, drawer.draw(["a fox"], [0], Settings(steps=2, guidance_scale=1)))


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_a_scale_that_is_no_number_is_refused(tiny_base, tmp_path, scale: float) -> None:
    with pytest.raises(ValueError, match="scale must be a number"):
        Drawer(tiny_base, write_lora(tiny_base, tmp_path / "x.safetensors"), scale)


def test_a_ready_sampler_takes_the_place_of_the_named_one(tiny_base) -> None:
    drawer, named = Drawer(tiny_base), Settings(steps=2, sampler="tcd", sampler_settings={"eta": 0.9})
    ready = drawer.draw(PROMPTS, SEEDS, Settings(steps=2), sampler=samplers.load("tcd", eta=0.9))
    assert torch.equal(ready, drawer.draw(PROMPTS, SEEDS, named))
    assert not torch.equal(ready, drawer.draw(PROMPTS, SEEDS, Settings(steps=2)))


def test_negative_guidance_is_refused() -> None:
    with pytest.raises(ValueError, match="guidance_scale must be 0"):
        Settings(guidance_scale=-1.0).checked()


def test_a_negative_prompt_acts_only_with_guidance(tiny_base) -> None:
    drawer = Drawer(tiny_base)
    plain = drawer.draw(["a fox"], [0], Settings(steps=2, guidance_scale=3.0))
    steered = drawer.draw(["a fox"], [0], Settings(steps=2, guidance_scale=3.0, negative="a dog"))
    assert (plain - steered).abs().max() > 1e-4
    with pytest.warns(UserWarning, match="does nothing at guidance_scale 1"):
        drawer.draw(["a fox"], [0], Settings(steps=1, negative="a dog"))


def test_a_lora_changes_the_picture_and_at_scale_0_it_is_not_there(tiny_folder, tiny_base, tmp_path) -> None:
    path = write_lora(bases.load(tiny_folder), tmp_path / "x.safetensors")
    alone = Drawer(tiny_base).draw(["a fox"], [0], Settings(steps=2))
    drawer = Drawer(tiny_base, path)
    assert (alone - drawer.draw(["a fox"], [0], Settings(steps=2))).abs().max() > 1e-3
    drawer.roles.scale("lora", 0.0)
    assert torch.equal(alone, drawer.draw(["a fox"], [0], Settings(steps=2)))


def test_a_small_networks_lora_is_folded_and_draws_the_same(tiny_folder, tiny_base, tmp_path, monkeypatch) -> None:
    drawer = Drawer(tiny_base, write_lora(bases.load(tiny_folder), tmp_path / "x.safetensors"))
    folded = drawer.draw(["a fox"], [0], Settings(steps=2))
    with drawer.on_stage():
        assert all(layer.disable_adapters for layer in drawer.roles.tuned)
    monkeypatch.setattr(pipeline, "FEW_WEIGHTS", 1)
    torch.testing.assert_close(drawer.draw(["a fox"], [0], Settings(steps=2)), folded, rtol=1e-4, atol=1e-4)
    with drawer.on_stage():
        assert not any(layer.disable_adapters for layer in drawer.roles.tuned)


def test_settings_come_from_the_header_unless_said(tiny_base, tmp_path) -> None:
    header = {"name": "tcd", "eta": 0.5, "guidance_scale": 1.5}
    lora = files.read(write_lora(tiny_base, tmp_path / "x.safetensors", sampler=header))
    assert settings_for(lora, 4) == Settings(4, "tcd", {"eta": 0.5}, 1.5)
    assert settings_for(lora, 4, sampler="lcm", guidance_scale=1.0) == Settings(4, "lcm", {}, 1.0)
    assert settings_for(lora, 4, eta=0.1).sampler_settings == {"eta": 0.1}
    assert settings_for(None, 25) == Settings(25, "ddim", {}, BASE_GUIDANCE)
    assert settings_for(None, 25, eta=0.0).sampler_settings == {}
    assert settings_for(lora, 1, one_step=800).sampler_settings == {"eta": 0.5, "one_step": 800}
    with pytest.raises(ValueError, match="where a single step begins, and there are 4: set steps to 1"):
        settings_for(lora, 4, one_step=800)


def test_steps_have_a_range_with_a_lora_and_a_wider_one_without() -> None:
    for steps in (1, 8):
        check_steps(steps)
    for steps in (0, 9):
        with pytest.raises(ValueError, match="from 1 to 8 with a few-step LoRA"):
            check_steps(steps)
    check_steps(12, made_for=(4, 8, 12))
    check_steps(5, made_for=(1,))
    with pytest.raises(ValueError, match="from 1 to 12 with a few-step LoRA"):
        check_steps(13, made_for=(4, 8, 12))
    check_steps(100, with_lora=False)
    with pytest.raises(ValueError, match="from 1 to 100 without a LoRA"):
        check_steps(101, with_lora=False)
