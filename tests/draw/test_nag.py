"""NAG is its formula, in cross-attention alone, at one evaluation a step, and leaves nothing behind."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0

from hypersd import bases
from hypersd.bases.toy import Toy
from hypersd.draw import pipeline
from hypersd.draw.compare import Way
from hypersd.draw.nag import Nag, mix, steer
from hypersd.draw.pipeline import Drawer, Settings, bind
from tests.loras import write_lora

PROMPTS, SEEDS = ["a fox", "a rocket"], [5, 6]
STEERED = Settings(steps=2, negative="a dog", nag_scale=4.0)
HEADS, WIDTH, CONTEXT = 2, 8, 6


def by_hand(layer: Attention, x: torch.Tensor, prompt: torch.Tensor, minus: torch.Tensor, nag: Nag) -> torch.Tensor:
    """One picture, x of shape n d, written out from the paper."""

    def answer(tokens: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            (given @ part.weight.T).unflatten(1, (HEADS, -1)).transpose(0, 1)
            for given, part in ((x, layer.to_q), (tokens, layer.to_k), (tokens, layer.to_v))
        )
        weights = torch.softmax(q @ k.transpose(1, 2) / (WIDTH / HEADS) ** 0.5, -1)
        return (weights @ v).transpose(0, 1).flatten(1)

    plus = answer(prompt)
    away = plus + (nag.scale - 1) * (plus - answer(minus))
    for token, own in zip(away, plus, strict=True):
        ratio = token.abs().sum() / own.abs().sum()
        token *= min(ratio, nag.tau) / ratio
    z = nag.alpha * away + (1 - nag.alpha) * plus
    return z @ layer.to_out[0].weight.T + layer.to_out[0].bias


def attention(processor: object) -> Attention:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Attention(WIDTH, CONTEXT, HEADS, dim_head=WIDTH // HEADS, processor=processor).requires_grad_(False)


def numbers(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("processor", [AttnProcessor(), AttnProcessor2_0()])
@pytest.mark.parametrize("nag", [Nag(3), Nag(9, tau=1.5, alpha=0.7)])
def test_a_layer_is_the_formula_by_hand(processor: object, nag: Nag) -> None:
    layer, x, prompt, minus = attention(processor), numbers(3, 5, WIDTH), numbers(3, 4, CONTEXT), numbers(2, 4, CONTEXT)
    plain = layer(x, encoder_hidden_states=prompt)
    with steer(layer, minus, nag):
        steered = layer(x, encoder_hidden_states=prompt)
    wanted = [by_hand(layer, x[i + 1], prompt[i + 1], minus[i], nag) for i in range(2)]
    torch.testing.assert_close(steered[1:], torch.stack(wanted), rtol=0, atol=1e-5)
    torch.testing.assert_close(steered[0], plain[0], rtol=0, atol=1e-6)  # the null prompt's row, under guidance
    assert (steered[1:] - plain[1:]).abs().max() > 0.1
    assert torch.equal(layer(x, encoder_hidden_states=prompt), plain)


def test_tau_bounds_the_norm_and_keeps_the_direction() -> None:
    plus, minus = numbers(2, 50, WIDTH), numbers(2, 50, WIDTH, seed=2)
    minus[:, :10] = plus[:, :10]
    away = plus + 29 * (plus - minus)
    found = mix(plus, minus, Nag(30, tau=2.5, alpha=1))
    ratio = found.abs().sum(-1) / plus.abs().sum(-1)
    torch.testing.assert_close(ratio[:, :10], torch.ones(2, 10))
    torch.testing.assert_close(ratio[:, 10:], torch.full((2, 40), 2.5))
    torch.testing.assert_close(torch.cosine_similarity(found, away, dim=-1), torch.ones(2, 50))


def test_features_of_zero_and_of_half_precision_stay_finite() -> None:
    zero = torch.zeros(1, 2, WIDTH)
    assert torch.equal(mix(zero, zero, Nag(5)), zero)
    large = torch.full((1, 2, 1280), 100.0, dtype=torch.float16)  # its norm is above float16's largest number
    assert torch.equal(mix(large, large, Nag(5)), large)


@pytest.mark.parametrize("off", [{"nag_scale": 1.0}, {"nag_scale": 4.0, "nag_alpha": 0.0}, {"negative": "a fox"}])
def test_off_or_against_the_prompt_itself_the_picture_is_the_same(tiny_base, off: dict) -> None:
    drawer = Drawer(tiny_base)
    plain = drawer.draw(["a fox"], [0], Settings(steps=2))
    settings = Settings(**{"steps": 2, "negative": "a dog", "nag_scale": 4.0, "guidance_scale": 1.0, **off})
    if settings.nag.on:
        drawn = drawer.draw(["a fox"], [0], settings)
    else:
        with pytest.warns(UserWarning, match="give --nag 3"):
            drawn = drawer.draw(["a fox"], [0], settings)
        assert torch.equal(drawn, plain)
    torch.testing.assert_close(drawn, plain, rtol=0, atol=1e-5)


def test_the_negative_prompt_acts_and_an_empty_one_is_the_null_prompt(tiny_base) -> None:
    drawer = Drawer(tiny_base)
    plain = drawer.draw(PROMPTS, SEEDS, Settings(steps=2))
    steered = drawer.draw(PROMPTS, SEEDS, STEERED)
    away_from_nothing = drawer.draw(PROMPTS, SEEDS, Settings(steps=2, nag_scale=4.0))
    for one, other in ((plain, steered), (plain, away_from_nothing), (steered, away_from_nothing)):
        assert (one - other).abs().max() > 1e-4
    alone = drawer.draw(PROMPTS[1:], SEEDS[1:], STEERED)
    torch.testing.assert_close(alone, steered[1:], rtol=0, atol=1e-5)


def test_it_costs_one_evaluation_a_step(tiny_base) -> None:
    counted: list[int] = []
    tiny_base.unet.register_forward_hook(lambda net, inputs, output: counted.append(len(inputs[0])))
    Drawer(tiny_base).draw(["a fox"], [0], STEERED)
    assert counted == [1, 1]
    assert Way("", STEERED).evaluations == 2


def test_beside_guidance_it_acts_on_the_prompts_half(tiny_base) -> None:
    cond, null = tiny_base.encode(PROMPTS), tiny_base.encode(["a dog"] * 2)
    x_t, t = numbers(2, *tiny_base.latent_shape()), torch.tensor([999, 500])
    with steer(tiny_base.unet, null.tokens, Nag(4)):
        x0, eps = bind(tiny_base, cond, null, 3.0)(x_t, t)
        steered = tiny_base.predict(x_t, t, cond)
    away = tiny_base.predict(x_t, t, null)
    for found, plus, minus in zip((x0, eps), steered, away, strict=True):
        torch.testing.assert_close(found, minus + 3 * (plus - minus), rtol=1e-4, atol=1e-4)


def test_nothing_is_left_behind_after_an_exception(tiny_base) -> None:
    drawer = Drawer(tiny_base)
    plain = drawer.draw(["a fox"], [0], Settings(steps=2))

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drawer.draw(["a fox"], [0], STEERED, callback=stop)
    hooks = [(m._forward_hooks, m._forward_pre_hooks) for m in tiny_base.unet.modules()]
    assert not any(before or after for before, after in hooks)
    assert torch.equal(drawer.draw(["a fox"], [0], Settings(steps=2)), plain)


def test_a_lora_folded_beside_or_merged_is_steered_alike(tiny_folder, tiny_base, tmp_path, monkeypatch) -> None:
    drawer = Drawer(tiny_base, write_lora(bases.load(tiny_folder), tmp_path / "x.safetensors"))
    folded = drawer.draw(PROMPTS, SEEDS, STEERED)
    monkeypatch.setattr(pipeline, "FEW_WEIGHTS", 1)
    beside = drawer.draw(PROMPTS, SEEDS, STEERED)
    merged = bases.load(tiny_folder)
    for name, layer in tiny_base.unet.named_modules():
        if "lora" in getattr(layer, "lora_A", {}):
            merged.unet.get_submodule(name).weight.data += layer.get_delta_weight("lora").detach()
    torch.testing.assert_close(beside, folded, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(Drawer(merged).draw(PROMPTS, SEEDS, STEERED), folded, rtol=1e-4, atol=1e-4)
    assert (folded - drawer.draw(PROMPTS, SEEDS, Settings(steps=2))).abs().max() > 1e-4
    assert (folded - Drawer(bases.load(tiny_folder)).draw(PROMPTS, SEEDS, STEERED)).abs().max() > 1e-3


def test_a_base_that_reads_no_prompt_cannot_be_steered() -> None:
    with pytest.raises(ValueError, match="needs a base with cross-attention"):
        Drawer(Toy()).draw(["a fox"], [0], STEERED)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"scale": 0.5}, "nag_scale must be 1"),
        ({"scale": float("nan")}, "nag_scale must be 1"),
        ({"tau": 0.5}, "nag_tau must be 1"),
        ({"tau": float("inf")}, "nag_tau must be 1"),
        ({"alpha": 1.5}, "nag_alpha must be from 0 to 1"),
        ({"alpha": -0.1}, "nag_alpha must be from 0 to 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(given: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Nag(**given)
    with pytest.raises(ValueError, match=words):
        Settings(**{f"nag_{name}": value for name, value in given.items()}).checked()


def test_what_does_nothing_is_noticed() -> None:
    with pytest.warns(UserWarning, match="nag_tau and nag_alpha do nothing"):
        Settings(nag_tau=3.0).checked()
