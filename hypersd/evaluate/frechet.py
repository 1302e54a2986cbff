"""Distances between two sets of pictures, in the features of a network that nobody here trained.

Fréchet distance (Dowson & Landau 1982) between Gaussians fitted to the features, after projection on the
principal directions of *real* pictures' features: |μ1 − μ2|² + tr(C1 + C2 − 2 (C1 C2)^½). It is not FID,
which is this number on another network. Everything here computes in float64.

A distance between two finite sets of the same distribution is not 0 but grows as 1/n: the *floor*. Every
set is drawn in two halves, each caption once in each, so that a half of one set against a half of another
is off by exactly what two halves of one set are off by, and subtracting it is fair.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

DIRECTIONS = 64
Features = Float[Tensor, "n d"]


@dataclass(frozen=True)
class Basis:
    """The leading principal directions of a set of features."""

    mean: Float[Tensor, " d"]
    directions: Float[Tensor, "d k"]

    def project(self, features: Features) -> Float[Tensor, "n k"]:
        return (features.double() - self.mean) @ self.directions


def principal(features: Features, directions: int = DIRECTIONS) -> Basis:
    """Principal component analysis by eigenvectors of the covariance; the largest first."""
    features = features.double()
    _, vectors = torch.linalg.eigh(covariance(features))
    return Basis(features.mean(0), vectors.flip(1)[:, : min(directions, len(features) - 1)])


def covariance(features: Features) -> Float[Tensor, "d d"]:
    centred = features.double() - features.double().mean(0)
    return centred.T @ centred / max(len(features) - 1, 1)


def distance(a: Features, b: Features) -> float:
    """The Fréchet distance between two sets of (projected) features."""
    return gaussian_distance(a.double().mean(0), covariance(a), b.double().mean(0), covariance(b))


def gaussian_distance(
    mean_a: Float[Tensor, " d"],
    cov_a: Float[Tensor, "d d"],
    mean_b: Float[Tensor, " d"],
    cov_b: Float[Tensor, "d d"],
) -> float:
    """tr (C1 C2)^½ is the sum of the roots of the eigenvalues of C1^½ C2 C1^½, which is symmetric."""
    root = matrix_root(cov_a)
    mixed = torch.linalg.eigvalsh(root @ cov_b.double() @ root).clamp(min=0).sqrt().sum()
    apart = (mean_a.double() - mean_b.double()).square().sum()
    return float(apart + cov_a.double().trace() + cov_b.double().trace() - 2 * mixed)


def matrix_root(matrix: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    """The root of a positive semidefinite matrix; eigenvalues below 0 are rounding."""
    values, vectors = torch.linalg.eigh(matrix.double())
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def halves(features: Features) -> tuple[Tensor, Tensor]:
    """Pictures 0, 2, 4 … and 1, 3, 5 …: the same captions with other seeds (see `captions.paired`)."""
    return features[0::2], features[1::2]


def floor(features: Features) -> float:
    """The distance between the two halves of one set: what no set of this size gets below."""
    return distance(*halves(features))


def between_halves(a: Features, b: Features) -> float:
    """The mean distance of a half of one set to a half of the other; subtract `floor` to get above it."""
    return sum(distance(x, y) for x in halves(a) for y in halves(b)) / 4


def kernel_distance(a: Features, b: Features) -> float:
    """KID (Bińkowski et al. 2018, arXiv 1801.01401): unbiased MMD² with the kernel (x·y / d + 1)³."""
    from torchmetrics.image.kid import poly_mmd  # takes two seconds to import

    assert len(a) == len(b), "poly_mmd takes both sets for as large as the first"
    return float(poly_mmd(a.double(), b.double(), degree=3, coef=1.0))
