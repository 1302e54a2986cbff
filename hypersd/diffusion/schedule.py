"""The noise schedule, and what a network's output means on it.

Glossary, for the whole of `diffusion/` and `distill/`:

    x0, eps   clean latent, and the Gaussian noise mixed into it
    x_t       α_t x0 + σ_t ε, the latent at timestep t
    t         integer timestep in 0 .. T−1, T = 1000; a larger t is noisier
    s         where one teacher step from t arrives (s < t)
    end       where a student's jump arrives (end <= s)
    −1        the timestep after the last: the cleanest level the schedule has, ᾱ_0 (as `set_alpha_to_one=False`)
    α, σ      √ᾱ_t and √(1−ᾱ_t); for flow models α = 1 − σ
    w         guidance scale in the ordinary convention, 1 = conditional only

Everything here computes in float32 whatever the network's dtype: at t = 999 an error in ε is
multiplied by σ/α = 14.6 on its way to x0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

Prediction = Literal["epsilon", "v_prediction", "sample", "flow"]
PREDICTIONS = ("epsilon", "v_prediction", "sample", "flow")


@dataclass(frozen=True)
class Schedule:
    """α and σ for every timestep, and the parametrisation of the network that was trained on them."""

    alpha: Float[Tensor, " T"]
    sigma: Float[Tensor, " T"]
    prediction: Prediction = "epsilon"

    @property
    def total(self) -> int:
        """T, the number of training timesteps."""
        return len(self.alpha)

    def to(self, device: torch.device | str) -> Schedule:
        return Schedule(self.alpha.to(device), self.sigma.to(device), self.prediction)

    def at(self, t: Int[Tensor, " b"], ndim: int) -> tuple[Tensor, Tensor]:
        """α_t and σ_t, shaped to broadcast over a batch with `ndim` axes; t = −1 reads ᾱ_0."""
        index = t.to(self.alpha.device).clamp(min=0)
        shape = (-1, *[1] * (ndim - 1))
        return self.alpha[index].view(shape), self.sigma[index].view(shape)

    def add_noise(
        self, x0: Float[Tensor, "b ..."], eps: Float[Tensor, "b ..."], t: Int[Tensor, " b"]
    ) -> Float[Tensor, "b ..."]:
        """x_t = α_t x0 + σ_t ε."""
        alpha, sigma = self.at(t, x0.ndim)
        return alpha * x0.float() + sigma * eps.float()

    def split(
        self, output: Float[Tensor, "b ..."], x_t: Float[Tensor, "b ..."], t: Int[Tensor, " b"]
    ) -> tuple[Float[Tensor, "b ..."], Float[Tensor, "b ..."]]:
        """(x0, ε) of a network's output at x_t, whatever it predicts.

        ε, v (Salimans & Ho 2022: v = α ε − σ x0), x0, or a flow's velocity (ε − x0, with α = 1 − σ).
        """
        output, x_t = output.float(), x_t.float()
        alpha, sigma = self.at(t, x_t.ndim)
        if self.prediction == "epsilon":
            return (x_t - sigma * output) / alpha, output
        if self.prediction == "v_prediction":
            return alpha * x_t - sigma * output, alpha * output + sigma * x_t
        if self.prediction == "sample":
            return output, (x_t - alpha * output) / sigma
        return x_t - sigma * output, x_t + alpha * output


def scaled_linear(
    total: int = 1000,
    beta_start: float = 0.00085,
    beta_end: float = 0.012,
    prediction: Prediction = "epsilon",
) -> Schedule:
    """Stable Diffusion's schedule: β linear in its square root."""
    return from_alphas_cumprod(scaled_linear_alphas_cumprod(total, beta_start, beta_end), prediction)


def scaled_linear_alphas_cumprod(total: int, beta_start: float, beta_end: float) -> Float[Tensor, " T"]:
    beta = torch.linspace(beta_start**0.5, beta_end**0.5, total, dtype=torch.float32) ** 2
    return (1 - beta).cumprod(0)


def flow(total: int = 1000) -> Schedule:
    """The straight path of flow models: σ_t = (t + 1) / T, α = 1 − σ, the network predicts ε − x0."""
    sigma = torch.arange(1, total + 1, dtype=torch.float32) / total
    return Schedule(1 - sigma, sigma, "flow")


def from_alphas_cumprod(alphas_cumprod: Float[Tensor, " T"], prediction: Prediction) -> Schedule:
    alphas_cumprod = alphas_cumprod.float()
    return Schedule(alphas_cumprod.sqrt(), (1 - alphas_cumprod).sqrt(), prediction)


def from_config(config: Mapping[str, Any]) -> Schedule:
    """The schedule of a diffusers scheduler config (`scheduler/scheduler_config.json`)."""
    prediction = config.get("prediction_type", "epsilon")
    shape = config.get("beta_schedule", "linear")
    if prediction not in PREDICTIONS:
        raise ValueError(f"prediction_type {prediction!r} is not known; use one of {', '.join(PREDICTIONS)}")
    if shape != "scaled_linear":
        raise ValueError(f"beta_schedule {shape!r} is not supported; Stable Diffusion uses 'scaled_linear'")
    if other := [key for key in ("trained_betas", "rescale_betas_zero_snr") if config.get(key)]:
        raise ValueError(f"{other[0]} is not supported; Stable Diffusion's own schedule has none")
    return scaled_linear(config.get("num_train_timesteps", 1000), config["beta_start"], config["beta_end"], prediction)
