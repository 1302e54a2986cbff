"""ImageReward against BLIP's own architecture with the original head."""

from __future__ import annotations

import pytest
import torch

from hypersd import judges
from hypersd.judges import imagereward
from hypersd.judges.networks import blip
from tests.judges import originals

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz", *(f"##{c}" for c in "abcdefghijkl"), "cafe"]
PROMPTS = ["a bad cafe", "deadbeef, CAFÉ xyz " * 12]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("imagereward")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    torch.save(net().state_dict(), folder / "ImageReward.pt")
    return folder


@pytest.fixture(scope="module")
def judge(folder):
    return judges.load("imagereward", folder)


def net():
    return originals.seeded(originals.ImageReward, len(WORDS) + 2)


def test_scores_are_those_of_the_original(judge):
    images, tokens = originals.pictures(), imagereward.encode(judge.words, PROMPTS)
    expected = net()(originals.pixels(images), tokens, tokens != 0)
    torch.testing.assert_close(judge(images, PROMPTS), expected, atol=1e-5, rtol=1e-5)


def test_the_parity_sees_the_norms_epsilon(judge, monkeypatch):
    """transformers' own default would be off by more than the tolerance."""
    images = originals.pixels(originals.pictures())
    seen = judge.vision(images).last_hidden_state
    for module in judge.vision.modules():
        if isinstance(module, torch.nn.LayerNorm):
            monkeypatch.setattr(module, "eps", 1e-5)
    assert (judge.vision(images).last_hidden_state - seen).abs().max() > 1e-4


def test_the_score_can_be_climbed_and_heeds_the_prompt(judge):
    assert originals.climbs(judge, PROMPTS)
    images = originals.pictures()
    assert (judge(images, PROMPTS) - judge(images, PROMPTS[::-1])).abs().min() > 1e-5


def test_words_are_split_as_transformers_splits_them(judge, folder):
    from transformers import BertTokenizer

    theirs = BertTokenizer(vocab=str(folder / "vocab.txt"))
    prompts = [*PROMPTS, "", "  A\tb,c!  你好"]
    padded = theirs(prompts, padding="max_length", truncation=True, max_length=imagereward.LENGTH)
    assert imagereward.encode(judge.words, prompts).tolist() == padded["input_ids"]


def test_a_vocabulary_without_its_marks_is_refused(folder, tmp_path):
    (tmp_path / "vocab.txt").write_text("a\nb")
    (tmp_path / "ImageReward.pt").symlink_to(folder / "ImageReward.pt")
    with pytest.raises(OSError, match=r"vocab.txt is damaged \(no '\[PAD\]' in it\); fetch it again"):
        judges.load("imagereward", tmp_path)


def test_blips_with_another_shape_are_refused():
    found = net().blip.visual_encoder.state_dict() | {"norm.weight": torch.ones(3)}
    with pytest.raises(ValueError, match=r"post_layernorm\.weight is \(3,\), not \(128,\)"):
        blip.load_vision(found)
