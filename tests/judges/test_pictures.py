"""Resizing as Pillow does it, cut or padded to a square, with a gradient everywhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from hypersd.judges.networks import pictures
from tests.judges import originals


def pillow(channel, height, width):
    resized = Image.fromarray(channel.numpy()).resize((width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized)).clamp(0, 1)


@pytest.mark.parametrize("size", [(9, 20), (90, 64)])
def test_resizing_is_pillows(size):
    images = originals.pictures(1, 40, 56)
    found = pictures.resized(images, *size)
    expected = torch.stack([pillow(channel, *size) for channel in images[0]])[None]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_the_middle_is_cut_out():
    images = originals.pictures(1, 28, 57)  # 29 columns too many: 14 go on the left
    torch.testing.assert_close(pictures.cropped(images, 28), originals.pixels(images[..., 14:42]))


def test_hps_pads_with_black_and_sees_the_whole_picture():
    images = originals.pictures(1, 28, 13)
    found = pictures.padded(images, 28)
    black = originals.pixels(torch.zeros(1, 3, 28, 28))
    torch.testing.assert_close(found[..., 7:20], originals.pixels(images))
    torch.testing.assert_close(found[..., :7], black[..., :7])
    torch.testing.assert_close(found[..., 20:], black[..., 20:])
    assert pictures.padded(originals.pictures(1, 31, 90), 28).shape == (1, 3, 28, 28)


def test_what_a_decoder_overshoots_can_come_back(tiny_base):
    """Pictures are clamped, their gradient is not: a judge can mend what is burnt."""
    latents = (
        20 * torch.randn(1, *tiny_base.latent_shape(), generator=torch.Generator().manual_seed(0))
    ).requires_grad_()
    images = tiny_base.to_images(latents)
    decoded = tiny_base.vae.decode(latents / tiny_base.vae.config.scaling_factor).sample / 2 + 0.5
    assert ((decoded > 1) | (decoded < 0)).any()
    torch.testing.assert_close(images, decoded.clamp(0, 1))
    slopes = [torch.autograd.grad(pictures.sum(), latents)[0] for pictures in (images, decoded)]
    torch.testing.assert_close(*slopes)


def test_a_white_picture_has_a_gradient_everywhere():
    """A clamp would stop it wherever rounding lifts white above 1."""
    white = torch.ones(1, 3, 57, 57, requires_grad=True)
    found = pictures.resized(white, 28, 28)
    (slope,) = torch.autograd.grad(found.sum(), white)
    assert found.max() <= 1
    torch.testing.assert_close(slope.sum(), torch.tensor(3.0 * 28 * 28))
