"""LAION's aesthetic predictor against its head on the unit vector of the original CLIP."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from hypersd import judges
from hypersd.judges.networks import open_clip
from tests.judges import originals

HEAD = "sac+logos+ava1-l14-linearMSE.pth"


@pytest.fixture
def folder(tmp_path):
    found = clip().state_dict()
    named = {name: part.contiguous() for key in found for name, part in open_clip.converted(key, found[key])}
    save_file(named, tmp_path / "model.safetensors")
    config = open_clip.config(found).to_dict()
    for tower in ("text_config", "vision_config"):
        config[tower] |= {"hidden_act": "quick_gelu", "dropout": 0.0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    torch.save(head().state_dict(), tmp_path / HEAD)
    return tmp_path


def clip():
    return originals.seeded(originals.OpenClip, 90, originals.QuickGELU)


def head(width=originals.PROJECTION):
    return originals.seeded(originals.Head, width)


def test_scores_are_those_of_the_original(folder):
    judge, images = judges.load("aesthetic", folder), originals.pictures()
    expected = head()(F.normalize(clip().visual(originals.pixels(images)), dim=1)).squeeze(1)
    torch.testing.assert_close(judge(images, ["a", "b"]), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(judge(images), expected, atol=1e-5, rtol=1e-5)
    assert not hasattr(judge.net, "text_model")
    assert originals.climbs(judge, ["a", "b"])
    assert judge.may_reward


def test_a_head_for_another_clip_is_refused(folder):
    torch.save(head(48).state_dict(), folder / HEAD)
    with pytest.raises(OSError, match="rates 48 numbers, and this CLIP gives 32; fetch it again from https"):
        judges.load("aesthetic", folder)


def test_a_head_of_another_kind_is_refused(folder):
    torch.save({"linear.weight": torch.zeros(1, 32)}, folder / HEAD)
    with pytest.raises(OSError, match=r"no 'layers\.0\.weight' in it\); fetch it again from https"):
        judges.load("aesthetic", folder)
