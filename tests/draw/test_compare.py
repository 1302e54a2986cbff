"""Ways of drawing side by side: each is what it would be alone, and costs what it says."""

from __future__ import annotations

import torch

from hypersd import bases
from hypersd.draw import demo
from hypersd.draw.compare import Way, draw_ways, to_sheet
from hypersd.draw.pipeline import Drawer, Settings
from tests.loras import write_lora

PROMPTS, SEEDS = ["a fox", "a rocket"], [1, 2]


def test_each_way_draws_what_it_draws_alone(tiny_folder, tiny_base, tmp_path) -> None:
    lora = write_lora(tiny_base, tmp_path / "x.safetensors")
    guided = Way("original", Settings(steps=3, guidance_scale=2.0))
    ways = [guided, Way("distilled", Settings(steps=1), lora), Way("original", Settings(steps=1))]
    drawn = draw_ways(str(tiny_folder), ways, PROMPTS, SEEDS)
    assert [item.way for item in drawn] == ways
    for item in drawn:
        alone = Drawer(bases.load(tiny_folder), item.way.lora).draw(PROMPTS, SEEDS, item.way.settings)
        assert torch.equal(item.images, alone)
    assert (drawn[1].images - drawn[2].images).abs().max() > 1e-3
    sheet = to_sheet(drawn, PROMPTS)
    assert [column.label for column in sheet.columns] == ["3 steps", "1 step", "1 step"]
    assert sheet.cells[1][0].tobytes() == drawn[0].pictures()[1].tobytes()


def test_guidance_costs_two_evaluations_a_step(tiny_base) -> None:
    counted = []
    tiny_base.unet.register_forward_hook(lambda net, inputs, output: counted.append(len(inputs[0])))
    for settings in (Settings(steps=3), Settings(steps=3, guidance_scale=4.0)):
        counted.clear()
        Drawer(tiny_base).draw(["a fox"], [0], settings)
        assert sum(counted) == Way("", settings).evaluations


def test_the_demo_compares_like_with_like(tiny_base, tmp_path) -> None:
    ways = demo.ways(write_lora(tiny_base, tmp_path / "x.safetensors"))
    assert [way.settings.steps for way in ways] == [25, 1, 2, 4, 8, 1, 2, 4, 8]
    assert {way.settings.guidance_scale for way in ways[:5]} == {5.0}  # the middle of what was baked in
    assert {way.settings.guidance_scale for way in ways[5:]} == {1.0}
    assert [way.evaluations for way in ways] == [50, 2, 4, 8, 16, 1, 2, 4, 8]


def test_the_match_is_1_for_the_reference_and_0_for_other_things(tiny_folder, tiny_base, tmp_path) -> None:
    """With a judge that sees only brightness, and prompts that ask for their own length of it."""

    def judge(images: torch.Tensor, prompts) -> torch.Tensor:
        wanted = torch.tensor([len(prompt) / 100 for prompt in prompts])
        return -(images.mean((1, 2, 3)) - wanted).abs()

    prompts, seeds = demo.rows(None, 0)
    right = torch.stack([torch.full((3, 4, 4), len(prompt) / 100) for prompt in prompts])
    reference = demo.Drawn(Way("original", Settings(steps=25, guidance_scale=5.0)), right, 0.1)
    others = [judge(right, prompts[i:] + prompts[:i]) for i in range(1, len(prompts))]
    calls = []
    records = demo.metrics([reference], prompts, lambda *given: calls.append(given) or judge(*given))
    assert records[0]["match"] == 1.0
    assert len(calls) == 1 + len(prompts)  # its own prompts once, then each prompt for all
    own, wrong = demo.match(judge, reference, prompts, demo.PROMPTS)
    assert torch.allclose(own, torch.zeros(8), atol=1e-6)
    assert torch.allclose(wrong, torch.stack(others).mean(0), atol=1e-6)
    assert len(seeds) == 8
    assert demo.rows("mine", 3) == (["mine"] * 4, [3, 4, 5, 6])
