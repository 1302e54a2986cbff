"""A picture beside prompts in which a word is another: which those are, how sure a judge is, and what that teaches."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from hypersd import bundled, judges
from hypersd.judges.against import Against, exchanged

SKINS = ["light skin", "medium-light skin", "medium skin"]
STYLES = ["3D style", "flat style"]


@pytest.mark.parametrize(
    ("prompt", "others"),
    [
        ("a cat", []),
        ("a house, flat style", ["a house, 3D style"]),
        ("a chef with medium-light skin", ["a chef with light skin", "a chef with medium skin"]),
        (
            "a chef with medium skin, 3D style",
            [
                "a chef with light skin, 3D style",
                "a chef with medium-light skin, 3D style",
                "a chef with medium skin, flat style",
            ],
        ),
        ("slight skin, flat styles", []),  # whole words only
    ],
)
def test_one_word_at_a_time_is_exchanged(prompt, others):
    assert exchanged(prompt, [SKINS, STYLES]) == others


def test_words_are_words_whatever_they_hold():
    assert exchanged("a (red) c++ sign", [["(red)", "blue"], ["c++", "c"]]) == ["a blue c++ sign", "a (red) c sign"]


class Told(nn.Module):
    """Likes bright pictures and long prompts; no cosine."""

    def forward(self, images, prompts):
        assert len(images) == len(prompts)
        return images.mean((1, 2, 3)) * torch.tensor([float(len(prompt)) for prompt in prompts])


def apart(judge, images, prompts):
    """Prompt by prompt, with nothing shared."""
    rows = [[prompt, *exchanged(prompt, [SKINS, STYLES])] for prompt in prompts]
    scores = [torch.cat([judge(images[i : i + 1], [each]) for each in row]) for i, row in enumerate(rows)]
    return torch.stack([(row / 0.25).softmax(0)[0].log() for row in scores])


@pytest.mark.parametrize("judge", [Told(), judges.load("emoji-a")], ids=["any", "cosine"])
def test_it_is_the_log_probability_among_them(judge):
    """And so is its gradient. The prompts have three others, one and none."""
    prompts = ["a chef with medium skin, 3D style", "a house, flat style", "a cat"]
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    found, expected = Against(judge, [SKINS, STYLES], 0.25)(images, prompts), apart(judge, images, prompts)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert found[2] == 0
    gradient, theirs = (torch.autograd.grad(log.sum(), images)[0] for log in (found, expected))
    torch.testing.assert_close(gradient, theirs, rtol=1e-3, atol=1e-6)
    assert gradient[:2].abs().amax((1, 2, 3)).gt(0).all()


def test_a_picture_of_one_style_is_none_of_the_other():
    """Real pictures, each surer under its own caption than under the same with the other style."""
    rows = json.loads((bundled.EVALUATION / "pictures.json").read_text())
    rows = [row for style in STYLES for row in [row for row in rows if row["caption"].endswith(style)][:20]]
    pictures = np.stack([np.asarray(Image.open(bundled.EVALUATION / "pictures" / row["file"])) for row in rows])
    images, captions = torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255, [row["caption"] for row in rows]
    judge = Against(judges.load("emoji-a"), [STYLES], 1 / 30)
    own, other = judge(images, captions).exp(), judge(images, [exchanged(each, [STYLES])[0] for each in captions]).exp()
    torch.testing.assert_close(own + other, torch.ones(40), rtol=1e-4, atol=1e-5)
    assert own.mean() > 0.8
