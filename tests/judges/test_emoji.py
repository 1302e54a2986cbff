"""The bundled judges, on the bundled real pictures, which no judge was trained on."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from hypersd import bundled, tensors
from hypersd.judges.emoji import Judge, load_judge, tokenize

CAPTIONS = bundled.EVALUATION / "captions.json.gz"


@pytest.fixture(scope="module")
def real():
    """Images in [0, 1], their captions, and for each its 99 distractors."""
    rows = json.loads((bundled.EVALUATION / "pictures.json").read_text())
    found = tensors.facts(CAPTIONS, "")
    others = {found["texts"][row["caption"]]: row["near"] + row["far"] for row in found["records"]}
    pictures = [np.asarray(Image.open(bundled.EVALUATION / "pictures" / row["file"])) for row in rows]
    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 255
    captions = [row["caption"] for row in rows]
    return images, captions, [[found["texts"][i] for i in others[caption]] for caption in captions]


@pytest.fixture(scope="module", params=["a", "b"])
def judge(request):
    return load_judge(request.param)


def test_a_real_picture_finds_its_caption_among_a_hundred(judge, real):
    images, captions, others = real
    seen, hits = judge.embed_images(images), []
    for picture, caption, wrong in list(zip(seen, captions, others, strict=True))[1::2]:
        scores = judge.embed_texts([caption, *wrong]) @ picture
        hits.append(bool(scores.argmax() == 0))
    # far above chance, 1 %; the figures over every held-out picture are in the judge's .json
    assert np.mean(hits) >= {"a": 0.4, "b": 0.6}[judge.name]


def test_the_score_is_the_cosine_and_shuffled_captions_score_less(judge, real):
    images, captions, _ = real
    scores = judge(images, captions)
    expected = (judge.embed_images(images) * judge.embed_texts(captions)).sum(-1)
    torch.testing.assert_close(scores, expected)
    assert scores.abs().max() <= 1
    assert scores.mean() > judge(images, captions[7:] + captions[:7]).mean() + 0.3


def test_blur_costs_quality(judge, real):
    images, *_ = real
    blurred = F.interpolate(F.avg_pool2d(images, 8), images.shape[-2:], mode="bilinear")
    assert (judge.quality(images) > judge.quality(blurred)).float().mean() >= 0.9


def test_the_score_can_be_climbed(judge, real):
    """The gradient with respect to the picture is finite, not zero, and points uphill."""
    images, captions = real[0][:4].clone().requires_grad_(), real[1][4:8]
    before = judge(images, captions)
    (slope,) = torch.autograd.grad(before.sum(), images)
    assert torch.isfinite(slope).all()
    assert (slope.flatten(1).norm(dim=1) > 0).all()
    step = 0.2 * slope / slope.flatten(1).norm(dim=1)[:, None, None, None]
    assert (judge(images + step, captions) > before).all()


def test_judge_a_finds_the_emoji_on_its_ground(real):
    """Against what is not white, which for an emoji on white is nearly its alpha channel."""
    images = real[0]
    drawn, true = load_judge("a").mask(images) > 0, (images.amin(1, keepdim=True) < 0.9)
    overlap = (drawn & true).sum((1, 2, 3)) / (drawn | true).sum((1, 2, 3))
    assert overlap.mean() > 0.85


def test_judge_b_draws_no_mask_and_may_not_reward(judge):
    assert judge.may_reward == (judge.name == "a")
    assert "MIT" in judge.trained_on
    assert judge.licence == "Apache-2.0"
    if judge.name == "b":
        with pytest.raises(ValueError, match="load_judge\\('a'\\)"):
            judge.mask(torch.zeros(1, 3, 64, 64))


def test_pictures_of_any_size_are_judged(judge):
    images = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    assert judge(images, ["a cat", "a dog"]).shape == (2,)


def test_an_unknown_judge_is_refused():
    with pytest.raises(ValueError, match="no judge 'c'; there are a, b"):
        load_judge("c")


def test_long_prompts_are_cut_and_words_after_the_end_change_nothing():
    long = tokenize(["cat " * 1000])
    assert long.shape == (1, 24)
    judge = Judge("b", 1800).eval()
    tokens = tokenize(["a cat"])
    torch.testing.assert_close(judge.text(tokens), judge.text(torch.cat([tokens, tokens[:, -1:]], 1)[:, :24]))
