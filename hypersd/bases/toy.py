"""Bases whose truth is known in closed form: Gaussian data, and a mixture of Gaussians in one dimension.

For N(0, s0²) the ideal ε is linear in x_t, the flow map is a factor, and what a distilled student must
reach can be written down (docs/paper_index.md). `Toy` puts the Gaussian behind the `Base` protocol: its
network is a table of one coefficient a timestep, so that a rank-1 LoRA on it can hold any linear student.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hypersd.bases import Cond, Distilled
from hypersd.diffusion.schedule import Schedule, scaled_linear


@dataclass(frozen=True)
class Gaussian:
    """Data N(0, diag(std²)); `std` broadcasts against the last axis."""

    std: Float[Tensor, " d"]
    schedule: Schedule = field(default_factory=scaled_linear)

    def std_at(self, t: Int[Tensor, " b"], ndim: int) -> Tensor:
        alpha, sigma = self.schedule.at(t, ndim)
        return ((alpha * self.std) ** 2 + sigma**2).sqrt()

    def eps(self, x_t: Float[Tensor, "b ... d"], t: Int[Tensor, " b"]) -> Float[Tensor, "b ... d"]:
        """E[ε | x_t] = σ x_t / (α² std² + σ²)."""
        _, sigma = self.schedule.at(t, x_t.ndim)
        return sigma * x_t / self.std_at(t, x_t.ndim) ** 2

    def flow(self, x_t: Float[Tensor, "b ... d"], t: Tensor, s: Tensor) -> Float[Tensor, "b ... d"]:
        """The exact solution of the probability-flow ODE from t to s."""
        return x_t * self.std_at(s, x_t.ndim) / self.std_at(t, x_t.ndim)


@dataclass(frozen=True)
class Mixture:
    """Data Σ w_i N(m_i, s_i²) on the line."""

    weights: Float[Tensor, " m"]
    means: Float[Tensor, " m"]
    stds: Float[Tensor, " m"]
    schedule: Schedule = field(default_factory=scaled_linear)

    def _at(self, t: Int[Tensor, " b"]) -> torch.distributions.MixtureSameFamily:
        alpha, sigma = (level.double() for level in self.schedule.at(t, 2))
        components = torch.distributions.Normal(alpha * self.means, ((alpha * self.stds) ** 2 + sigma**2).sqrt())
        weights = torch.distributions.Categorical(self.weights.double().expand(len(t), -1))
        return torch.distributions.MixtureSameFamily(weights, components)

    def eps(self, x_t: Float[Tensor, " b"], t: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
        """−σ ∇ log p_t(x_t)."""
        with torch.enable_grad():
            x = x_t.detach().double().requires_grad_()
            (score,) = torch.autograd.grad(self._at(t).log_prob(x).sum(), x)
        return -self.schedule.at(t, 1)[1] * score.to(x_t.dtype)

    def flow(self, x_t: Float[Tensor, " b"], t: Tensor, s: Tensor) -> Float[Tensor, " b"]:
        """The exact flow map: in one dimension the ODE keeps quantiles, so invert the CDF by bisection."""
        quantile, target = self._at(t).cdf(x_t.double()), self._at(s)
        low, high = torch.full_like(quantile, -20.0), torch.full_like(quantile, 20.0)
        for _ in range(60):
            middle = (low + high) / 2
            below = target.cdf(middle) < quantile
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return ((low + high) / 2).to(x_t.dtype)


class LinearEps(nn.Module):
    """ε = c(t) · x_t, with one coefficient for each timestep."""

    def __init__(self, gaussian: Gaussian) -> None:
        super().__init__()
        t = torch.arange(gaussian.schedule.total)
        coefficients = gaussian.eps(torch.ones(len(t), 1), t)
        self.table = nn.Embedding.from_pretrained(coefficients)

    def forward(self, x_t: Float[Tensor, "b c h w"], t: Int[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
        return self.table(t)[:, :, None, None] * x_t


class Toy:
    """A `Base` on Gaussian data of standard deviation `std`: 64 independent samples of the line a "latent"."""

    family = "toy"
    lora_targets = ("table",)
    autocast: torch.dtype | None = None
    distilled: Distilled | None = None

    def __init__(self, std: float = 0.5, device: torch.device | str = "cpu") -> None:
        self.source = "toy"
        self.device = torch.device(device)
        self.data = Gaussian(torch.tensor([std]))
        self.unet = LinearEps(self.data).requires_grad_(False).to(self.device)
        self.schedule = self.data.schedule.to(self.device)

    def latent_shape(self, height: int | None = None, width: int | None = None) -> tuple[int, int, int]:
        return (1, height or 8, width or 8)

    def encode(self, prompts: Sequence[str]) -> Cond:
        return Cond(torch.zeros(len(prompts), 1, 1, device=self.device))

    def null(self, cond: Cond) -> Cond:
        return cond

    def predict(self, x_t: Tensor, t: Tensor, cond: Cond, told: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.schedule.split(self.unet(x_t, t if told is None else told), x_t, t)

    def features(self, x_t: Tensor, t: Tensor, cond: Cond) -> list[Tensor]:
        return [self.unet(x_t, t)]

    def to_latents(self, images: Tensor) -> Tensor:
        return images.mean(1, keepdim=True)

    def to_images(self, latents: Tensor) -> Tensor:
        return latents.expand(-1, 3, -1, -1)
