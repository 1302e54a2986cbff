"""Sums of LoRAs, against the matrices that they stand for."""

from __future__ import annotations

import pytest
import torch

from hypersd.draw.pipeline import Drawer, Settings
from hypersd.lora import algebra, files
from hypersd.lora.roles import Roles
from tests.lora.test_files import RECIPE, SAMPLER, drawn_twice

SHAPES = {"down.to_q": (9, 7), "mid.conv": (8, 3, 3, 3), "up.to_k": (2, 11), "tokens": (6, 10)}
STRENGTHS = (1.0, -0.7)


def lora(rank, seed, layers=tuple(SHAPES)):
    """Random, as `files.read` would give it: linear layers, one of them narrow, a convolution, an embedding."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for layer in layers:
        out, *rest = SHAPES[layer]
        a, b = (f"{layer}.lora_embedding_{h}" if layer == "tokens" else f"{layer}.lora_{h}.weight" for h in "AB")
        state[a] = torch.randn(rank, *rest, generator=generator)
        state[b] = torch.randn(out, rank, *[1] * (len(rest) - 1), generator=generator)
    return state


def changes(state):
    """B A of each layer, in float64."""
    pairs = files.layers(state).items()
    return {layer: state[b].double().flatten(1) @ state[a].double().flatten(1) for layer, (a, b) in pairs}


def assert_same(got, expected):
    assert got.keys() == expected.keys()
    for layer, change in expected.items():
        torch.testing.assert_close(got[layer], change, rtol=1e-6, atol=1e-6, msg=layer)


def weighted(first, second):
    return {layer: STRENGTHS[0] * change + STRENGTHS[1] * second[layer] for layer, change in first.items()}


def test_concatenation_is_the_sum_of_the_products():
    first, second = lora(2, seed=0), lora(3, seed=1)
    total = algebra.concatenate([first, second], STRENGTHS)
    assert_same(changes(total), weighted(changes(first), changes(second)))
    assert algebra.rank_of(total) == 5
    assert total["mid.conv.lora_A.weight"].shape == (5, 3, 3, 3)
    assert total["mid.conv.lora_B.weight"].shape == (8, 5, 1, 1)
    assert total["tokens.lora_embedding_A"].shape == (5, 10)


def test_the_sum_of_the_factors_is_something_else():
    """What a merge must not be: it adds B1 A2 and B2 A1, as large as the LoRAs themselves."""
    first, second = lora(2, seed=0), lora(2, seed=1)
    right = changes(algebra.concatenate([first, second], (1, 1)))
    wrong = changes({name: first[name] + second[name] for name in first})
    for layer, change in right.items():
        assert (wrong[layer] - change).norm() > 0.5 * change.norm()


def test_a_layer_that_one_lacks_is_not_changed_by_it():
    first, second = lora(2, seed=0, layers=["down.to_q", "mid.conv"]), lora(3, seed=1, layers=["mid.conv", "tokens"])
    total = algebra.concatenate([first, second], STRENGTHS)
    ones, others = changes(first), changes(second)
    expected = weighted({"mid.conv": ones["mid.conv"]}, others)
    assert_same(changes(total), {"down.to_q": ones["down.to_q"], "tokens": -0.7 * others["tokens"], **expected})
    assert {len(tensor) for name, tensor in total.items() if files.is_a(name)} == {5}


def test_without_a_common_layer_the_rank_does_not_grow():
    first, second = lora(2, seed=0, layers=["down.to_q"]), lora(3, seed=1, layers=["tokens"])
    assert algebra.rank_of(algebra.concatenate([first, second], STRENGTHS)) == 3


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_truncation_is_as_near_as_the_svd_of_the_whole_matrix(rank):
    """Eckart and Young: nothing of that rank is nearer."""
    whole = lora(6, seed=0)
    nearest, kept = algebra.truncate(whole, rank)
    assert algebra.rank_of(nearest) == rank
    exact, got, lost = changes(whole), changes(nearest), 0.0
    for layer, change in exact.items():
        u, s, vh = torch.linalg.svd(change, full_matrices=False)
        best = (u[:, :rank] * s[:rank]) @ vh[:rank]
        error, least = ((matrix - change).norm().item() for matrix in (got[layer], best))
        assert error == pytest.approx(least, rel=1e-5, abs=1e-5)
        lost += s[rank:].square().sum().item()
    share = 1 - lost / sum(change.square().sum().item() for change in exact.values())
    assert 0.3 < kept < 0.999
    assert kept == pytest.approx(share**0.5, rel=1e-6)
    assert files.layers(nearest) == files.layers(whole)


def test_truncating_to_the_true_rank_is_exact():
    """A LoRA merged with itself has twice the factors and no more rank."""
    single = lora(3, seed=0)
    double = algebra.concatenate([single, single], (0.25, 0.75))
    assert algebra.rank_of(double) == 6
    for rank in (3, 5):
        nearest, kept = algebra.truncate(double, rank)
        assert kept == pytest.approx(1, abs=1e-9)
        for layer, change in changes(single).items():
            torch.testing.assert_close(changes(nearest)[layer], change, rtol=1e-5, atol=1e-5)


def test_both_factors_are_of_one_size():
    """So that neither leaves the range of float16 before the other."""
    nearest, _ = algebra.truncate(algebra.scale(lora(4, seed=0), 1e6), 2)
    for a, b in files.layers(nearest).values():
        torch.testing.assert_close(nearest[a].norm(), nearest[b].norm())


def test_a_lora_that_changes_nothing_keeps_all_of_it():
    nearest, kept = algebra.truncate(algebra.scale(lora(4, seed=0), 0.0), 2)
    assert kept == 1
    assert all(change.abs().max() == 0 for change in changes(nearest).values())


def test_what_cannot_be_is_refused():
    whole = lora(2, seed=0)
    for strength in (float("inf"), float("nan")):
        with pytest.raises(ValueError, match=r"strength of a LoRA must be a number such as 0.7, not (inf|nan)"):
            algebra.scale(whole, strength)
    with pytest.raises(ValueError, match="rank of a LoRA must be 1 or more, not 0"):
        algebra.truncate(whole, 0)
    with pytest.raises(ValueError, match="zip"):
        algebra.concatenate([whole, whole], [1.0])


def two_roles(base, folder):
    """Two LoRAs on one network, of other ranks, alphas and layers, and what their files hold."""
    roles, read = Roles(base.unet), []
    for role, rank, alpha, targets in (("student", 4, 1.0, ["to_q", "conv1"]), ("feedback", 2, 3.0, ["conv1", "to_v"])):
        roles.add(role, rank, targets, alpha)
        generator = torch.Generator().manual_seed(rank)
        state = {k: 0.3 * torch.randn(v.shape, generator=generator) for k, v in roles.state(role).items()}
        roles.load(role, state)
        path = folder / f"{role}.safetensors"
        files.write(path, state, roles.shape(role), files.fingerprint(base.unet), RECIPE, SAMPLER, torch.float32)
        read.append(files.read(path))
    return roles, read


def test_the_sum_draws_what_both_draw_together(tiny_base, tiny_folder, tmp_path):
    """Here and in a stock pipeline, though its layers are named one by one and only some have both parts."""
    roles, read = two_roles(tiny_base, tmp_path)
    total = algebra.concatenate([file.weights for file in read], (1.0, 0.7))
    path, shape = tmp_path / "merged.safetensors", (6, 6, tuple(sorted(files.layers(total))))
    files.write(path, total, shape, read[0].base, RECIPE, SAMPLER, torch.float32)
    merged, stock = drawn_twice(tiny_folder, path, steps=2)

    roles.scale("feedback", 0.7)
    drawer = Drawer(tiny_base, roles=roles)
    drawer.playing = ("student", "feedback")
    both = drawer.latents(["a bird"], [7], Settings(steps=2))
    torch.testing.assert_close(merged, both, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(stock, both, rtol=1e-4, atol=1e-4)
    drawer.playing = ("student",)
    assert (drawer.latents(["a bird"], [7], Settings(steps=2)) - both).abs().max() > 1e-2
