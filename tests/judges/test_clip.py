"""CLIP score, PickScore and HPSv2 against the architectures that their weights come from."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from hypersd import judges
from hypersd.judges.networks import bpe, open_clip
from tests.conftest import save_tokenizer
from tests.judges import originals

PROMPTS = ["a red fox, 3d", "It's 12 o'clock... or not?"]
LONG = ["word " * 40, "a"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One that serves all four: their files have different names, or the same content."""
    folder = tmp_path_factory.mktemp("judges") / "clips"
    words = save_tokenizer(folder)
    net = originals.seeded(originals.OpenClip, words)
    # as published: in half precision, among other things
    halves = {key: tensor.half() for key, tensor in net.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": halves, "name": "x"}, folder / "HPS_v2_compressed.pt")
    opposite = halves | {"text_projection": -halves["text_projection"]}
    torch.save({"state_dict": opposite}, folder / "HPS_v2.1_compressed.pt")
    save_transformers(net, folder / "model.safetensors", "gelu")
    quick = originals.seeded(originals.OpenClip, words, originals.QuickGELU)
    save_transformers(quick, folder / "pytorch_model.bin", "quick_gelu")
    return folder


def save_transformers(net, path, activation):
    """In transformers' names and in a file as old as the published ones."""
    found = net.state_dict()
    named = {name: part.contiguous() for key in found for name, part in open_clip.converted(key, found[key])}
    named["text_model.embeddings.position_ids"] = torch.arange(originals.CONTEXT)[None]
    save_file(named, path) if path.suffix == ".safetensors" else torch.save(named, path)
    config = open_clip.config(found).to_dict()
    for tower in ("text_config", "vision_config"):
        config[tower] |= {"hidden_act": activation, "num_beams": 1, "bad_words_ids": None, "torch_dtype": "float32"}
    config["text_config"]["eos_token_id"] = 2  # wrong in the published files, and meant to be
    (path.parent / f"{activation}.json").write_text(json.dumps(config))


def use(folder, activation):
    (folder / "config.json").write_text((folder / f"{activation}.json").read_text())


def load(name, folder):
    if not name.startswith("hps"):
        use(folder, "quick_gelu" if name == "clip" else "gelu")
    return judges.load(name, folder)


@pytest.fixture(scope="module")
def loaded(folder):
    return {name: load(name, folder) for name in ("clip", "pickscore", "hpsv2")}


def tokens(folder, prompts):
    words = bpe.load(folder / "vocab.json", folder / "merges.txt", "")
    return bpe.encode(words, prompts, originals.CONTEXT)


@pytest.mark.parametrize("prompts", [PROMPTS, LONG])
@pytest.mark.parametrize("name", ["clip", "pickscore", "hpsv2"])
def test_scores_are_those_of_the_original(name, prompts, folder, loaded):
    activation = originals.QuickGELU if name == "clip" else nn.GELU
    words = loaded[name].net.config.text_config.vocab_size
    net = originals.seeded(originals.OpenClip, words, activation)
    if name == "hpsv2":
        net = net.half().float()
    images = originals.pictures()
    cosines = net(originals.pixels(images), tokens(folder, prompts))
    scale = {"clip": 100, "pickscore": net.logit_scale.exp() / 100, "hpsv2": 1}[name]
    torch.testing.assert_close(loaded[name](images, prompts), scale * cosines, atol=1e-5, rtol=1e-5)


def test_the_two_activations_differ(folder):
    """Else the test above would not notice the wrong one."""
    images, read = originals.pixels(originals.pictures()), tokens(folder, PROMPTS)
    gelu, quick = (
        originals.seeded(originals.OpenClip, 90, kind)(images, read % 90) for kind in (nn.GELU, originals.QuickGELU)
    )
    assert (gelu - quick).abs().min() > 1e-4


@pytest.mark.parametrize("name", ["clip", "pickscore", "hpsv2"])
def test_scores_can_be_climbed(name, loaded):
    assert originals.climbs(loaded[name], PROMPTS)


def test_judges_are_frozen_in_evaluation_mode_and_fp32(loaded):
    for name, judge in loaded.items():
        assert isinstance(judge, judges.Judge)
        assert (judge.name, judge.may_reward, judge.training) == (name, False, False)
        assert {parameter.dtype for parameter in judge.parameters()} == {torch.float32}
        assert not any(parameter.requires_grad for parameter in judge.parameters())


def test_the_score_is_the_scaled_product_of_the_embeddings(loaded):
    judge, images = loaded["clip"], originals.pictures()
    products = (judge.embed_images(images) * judge.embed_texts(PROMPTS)).sum(-1)
    torch.testing.assert_close(judge(images, PROMPTS), 100 * products)


def test_version_2_1_has_its_own_file(folder, loaded):
    images = originals.pictures()
    scores = judges.load("hpsv21", folder)(images, PROMPTS)
    torch.testing.assert_close(scores, -loaded["hpsv2"](images, PROMPTS))


@pytest.mark.parametrize(("name", "seen"), [("clip", False), ("pickscore", False), ("hpsv2", True)])
def test_whether_the_ends_of_a_wide_picture_are_seen(name, seen, loaded):
    images = originals.pictures(1, 40, 120).requires_grad_()
    (slope,) = torch.autograd.grad(loaded[name](images, PROMPTS[:1]).sum(), images)
    assert bool(slope[..., :20].abs().sum() > 0) == seen


def test_each_image_needs_its_prompt(loaded):
    with pytest.raises(ValueError, match="2 images and 1 prompts: give one prompt for each image"):
        loaded["clip"](originals.pictures(), PROMPTS[:1])


def test_words_are_split_as_transformers_splits_them(folder):
    from transformers import CLIPTokenizer

    theirs = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    prompts = [*PROMPTS, *LONG, "  Caps AND   spaces\n", "re-re're, 007!?", ""]
    padded = theirs(prompts, padding="max_length", truncation=True, max_length=originals.CONTEXT)
    assert tokens(folder, prompts).tolist() == padded["input_ids"]
