"""Annotations are checked under pytest: a wrong shape, dtype or word stops at the function's door."""

from __future__ import annotations

import pytest
import torch
from jaxtyping import TypeCheckError

from hypersd.bases import Cond
from hypersd.diffusion.schedule import Schedule, scaled_linear
from hypersd.diffusion.segments import Segments


def test_two_tensors_must_agree_on_the_batch():
    x = torch.zeros(3, 4, 8, 8)
    with pytest.raises(TypeCheckError, match="parameter 't'"):
        scaled_linear().add_noise(x, x, torch.tensor([1, 2]))


def test_a_timestep_must_be_an_integer():
    x = torch.zeros(1, 4, 8, 8)
    with pytest.raises(TypeCheckError, match="parameter 't'"):
        scaled_linear().add_noise(x, x, torch.tensor([1.0]))


def test_a_word_must_be_one_of_those_named():
    with pytest.raises(TypeCheckError, match="parameter 'where'"):
        Segments(4).end(torch.tensor([999]), torch.rand(1), "middle")


def test_dataclasses_are_checked_too():
    with pytest.raises(TypeCheckError):
        Schedule(torch.ones(1000), torch.ones(999))
    with pytest.raises(TypeCheckError):
        Cond(torch.zeros(2, 77))


def test_the_tiny_base_predicts_and_decodes_in_its_shapes(tiny_base):
    cond = tiny_base.encode(["a red fox", ""])
    x0, eps = tiny_base.predict(torch.zeros(2, 4, 8, 8), torch.tensor([999, 0]), cond)
    assert x0.shape == eps.shape == (2, *tiny_base.latent_shape())
    assert tiny_base.to_images(x0).shape == (2, 3, 16, 16)
