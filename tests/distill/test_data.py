"""Where latents and captions come from."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from safetensors.torch import save_file

from hypersd.distill import data
from hypersd.distill.randomness import generators
from hypersd.lora.roles import Roles


def write(path, captions, weight=(1.0, 3.0)):
    latents = torch.stack([torch.full((4, 8, 8), float(i)) for i in range(len(weight))])
    tensors = {"latents": latents.half(), "weight": torch.tensor(weight)}
    save_file(tensors, path, {"captions": json.dumps(captions)})


def test_latents_come_with_one_of_their_captions_and_by_weight(tiny_base, tmp_path):
    path = tmp_path / "latents.safetensors"
    write(path, [["a cat", "a black cat"], ["a dog"]])
    source = data.load(tiny_base, {"kind": "latents", "path": str(path)}, tmp_path)
    drawn = source.draw(generators(0, 0, 0, range(200)))
    x0, cond = drawn.latents, drawn.cond
    which = x0[:, 0, 0, 0]
    assert 0.65 < which.mean() < 0.85  # 3 to 1
    texts = tiny_base.encode(["a cat", "a black cat", "a dog"]).tokens
    near = (cond.tokens[:, None] - texts[None]).flatten(2).norm(dim=2).argmin(1)
    assert set(near[which == 0].tolist()) == {0, 1}
    assert set(near[which == 1].tolist()) == {2}


def test_a_sample_is_the_same_whatever_its_batch(tiny_base, tmp_path):
    path = tmp_path / "latents.safetensors"
    write(path, [["a cat", "a black cat"], ["a dog"]])
    source = data.load(tiny_base, {"kind": "latents", "path": str(path)}, tmp_path)
    whole = source.draw(generators(0, 0, 5, range(16))).latents
    part = source.draw(generators(0, 0, 5, range(8, 16))).latents
    assert torch.equal(whole[8:], part)


def test_prompts_alone_are_enough_and_the_pool_is_drawn_once(tiny_base, tmp_path, monkeypatch):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red bird\n\na blue fish\n")
    settings = {"kind": "prompts", "prompts": str(prompts), "pool": 5, "steps": 2, "batch": 2}
    told: list[str] = []
    roles = Roles(tiny_base.unet)
    first = data.load(tiny_base, settings, tmp_path, told.append)
    assert Roles.of[tiny_base.unet] is roles  # who counts passes asks these
    assert told == ["drawing latents from prompts, once: 0 of 5"]
    assert first.latents.shape == (5, 4, 8, 8)
    assert [texts[0] for texts in first.captions] == ["a red bird", "a blue fish"] * 2 + ["a red bird"]
    monkeypatch.setattr(data, "_pool", lambda *_: pytest.fail("drawn again"))
    again = data.load(tiny_base, settings, tmp_path)
    assert torch.equal(first.latents, again.latents)
    other = {**settings, "seed": 1}
    monkeypatch.undo()
    assert not torch.equal(data.load(tiny_base, other, tmp_path).latents, first.latents)
    tuned = copy.deepcopy(tiny_base.unet)
    next(tuned.parameters()).data.add_(0.1)
    monkeypatch.setattr(tiny_base, "unet", tuned)  # from the same place
    assert not torch.equal(data.load(tiny_base, settings, tmp_path).latents, first.latents)


def test_what_is_held_out_is_never_trained_on(tiny_base, tmp_path):
    """Two of those with a weight, whatever their order in the file; the rest is drawn as before."""
    path = tmp_path / "latents.safetensors"
    names = ["a cat", "a dog", "a fox", "an owl", "a bee"]
    write(path, [[name] for name in names], weight=(1.0, 3.0, 5.0, 5.0, 0.0))
    source = data.load(tiny_base, {"kind": "latents", "path": str(path), "held": 2}, tmp_path)
    trained, held = (set(part.draw(generators(0, 0, 0, range(200))).prompts) for part in (source, source.held))
    assert len(trained) == len(held) == 2
    assert trained | held == set(names[:4])
    again = data.load(tiny_base, {"kind": "latents", "path": str(path), "held": 2}, tmp_path)
    assert torch.equal(again.heap, source.heap)
    assert source.held.held is None


@pytest.mark.parametrize(
    ("captions", "shape", "weights", "message"),
    [
        (["a cat", "a dog"], (2, 4, 8, 8), 2, "must be a list of texts for each of its latents"),
        ([["a cat"], []], (2, 4, 8, 8), 2, "must be a list of texts for each of its latents, with one at least"),
        ([["a cat"], ["a dog"]], (2, 4, 8, 8), 3, "has 2 latents but 3 weights"),
        ([["a cat"], ["a dog"]], (2, 3, 8, 8), 2, "has latents of 2 3 8 8, not n 4 h w"),
        ([["a cat"], ["a dog"]], (2, 9, 4, 8, 8), 2, "has latents of 2 9 4 8 8, not n 4 h w"),
    ],
)
def test_a_file_of_another_make_is_told(tiny_base, tmp_path, captions, shape, weights, message):
    path = tmp_path / "latents.safetensors"
    save_file({"latents": torch.zeros(shape), "weight": torch.ones(weights)}, path, {"captions": json.dumps(captions)})
    with pytest.raises(ValueError, match=message):
        data.load(tiny_base, {"kind": "latents", "path": str(path)}, tmp_path)


def test_of_nothing_with_a_weight_nothing_is_drawn(tiny_base, tmp_path):
    path = tmp_path / "latents.safetensors"
    write(path, [["a cat"], ["a dog"]], weight=(0.0, 0.0))
    with pytest.raises(ValueError, match="no sample of the data has a weight"):
        data.load(tiny_base, {"kind": "latents", "path": str(path)}, tmp_path)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"kind": "pictures"}, ValueError, "unknown data kind 'pictures': use one of latents, prompts, gaussian"),
        ({"kind": "latents", "path": "nowhere"}, ValueError, "no latents at nowhere"),
        ({"kind": "latents"}, ValueError, "lacks 'data.path'"),
        ({"kind": "prompts", "pool": 2000, "held": 2000}, ValueError, "held=2000 leaves none of 2000 samples"),
        ({"kind": "prompts", "pol": 3}, ValueError, "'data.pol': did you mean 'pool'"),
    ],
)
def test_mistakes_name_the_remedy(tiny_base, tmp_path, settings, error, message):
    with pytest.raises(error, match=r".") as caught:
        data.load(tiny_base, settings, tmp_path)
    assert message in str(caught.value)


def test_captions_that_do_not_match_are_refused(tiny_base, tmp_path):
    path = tmp_path / "latents.safetensors"
    write(path, [["a cat"]])
    with pytest.raises(ValueError, match="2 latents but 1 lists of captions"):
        data.load(tiny_base, {"kind": "latents", "path": str(path)}, tmp_path)


def test_a_damaged_file_says_so(tiny_base, tmp_path):
    path = tmp_path / "latents.safetensors"
    write(path, [["a cat"], ["a dog"]])
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(OSError, match="damaged"):
        data.load(tiny_base, {"kind": "latents", "path": str(path)}, tmp_path)


def test_some_captions_are_left_out_as_guidance_needs(tiny_base, tmp_path):
    """The share that was asked for, the others as often as they were; the pictures are those of any share."""
    path = tmp_path / "latents.safetensors"
    write(path, [["a cat", "a black cat"], ["a dog"]])
    drawn = {
        empty: data.load(tiny_base, {"kind": "latents", "path": str(path), "empty": empty}, tmp_path).draw(
            generators(0, 0, 0, range(400))
        )
        for empty in (0.0, 0.25)
    }
    left_out = [prompt == "" for prompt in drawn[0.25].prompts]
    assert sum(left_out) / 400 == pytest.approx(0.25, abs=0.06)
    assert set(drawn[0.25].prompts) == {"", "a cat", "a black cat", "a dog"}
    assert "" not in drawn[0.0].prompts
    assert torch.equal(drawn[0.0].latents, drawn[0.25].latents)
    null = tiny_base.null(drawn[0.25].cond)
    torch.testing.assert_close(drawn[0.25].cond.tokens[left_out], null.tokens[left_out])
