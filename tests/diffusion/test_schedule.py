"""α, σ, and what a network's output means on them."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler

from hypersd.bases.sd15 import ddim_config
from hypersd.diffusion import schedule as schedules
from hypersd.diffusion.schedule import PREDICTIONS, flow, from_config, scaled_linear
from tests.diffusion.fixed_point import ALPHAS_CUMPROD

# What stands in the scheduler folder of Stable Diffusion 1.5.
SD15_CONFIG = {
    "_class_name": "PNDMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
EVERY_T = torch.arange(1000)


def test_alphas_are_diffusers_and_the_float64_product():
    alpha = scaled_linear().alpha
    assert torch.equal(alpha, DDIMScheduler(**ddim_config()).alphas_cumprod.sqrt())
    torch.testing.assert_close(alpha.double() ** 2, torch.from_numpy(ALPHAS_CUMPROD), rtol=2e-5, atol=0)


def test_variance_is_preserved():
    schedule = scaled_linear()
    torch.testing.assert_close(schedule.alpha**2 + schedule.sigma**2, torch.ones(1000), rtol=0, atol=2e-7)


@pytest.mark.parametrize(
    ("t", "alpha", "sigma", "inverse", "snr"),
    [
        (0, 0.9996, 0.029, 1.00, 1175),
        (249, 0.8218, 0.5697, 1.22, 2.08),
        (399, 0.6528, 0.7576, 1.53, 0.742),
        (499, 0.5269, 0.8499, 1.90, 0.384),
        (749, 0.2380, 0.9713, 4.20, 0.0600),
        (800, 0.1920, 0.9814, 5.21, 0.0383),
        (999, 0.0683, 0.9977, 14.65, 0.00468),
    ],
)
def test_levels_at_well_known_timesteps(t, alpha, sigma, inverse, snr):
    schedule = scaled_linear()
    a, s = schedule.alpha[t].item(), schedule.sigma[t].item()
    assert (a, s) == pytest.approx((alpha, sigma), abs=2e-4)
    assert 1 / a == pytest.approx(inverse, abs=6e-3)
    assert a**2 / s**2 == pytest.approx(snr, rel=3e-3)


def test_the_timestep_after_the_last_is_alpha_bar_0():
    schedule = scaled_linear()
    for of_end, of_zero in zip(schedule.at(torch.tensor([-1]), 4), schedule.at(torch.tensor([0]), 4), strict=True):
        assert of_end.shape == (1, 1, 1, 1)
        assert torch.equal(of_end, of_zero)


def test_add_noise_is_diffusers():
    x0, eps = torch.randn(2, 3, 4, 2, 2).unbind()
    t = torch.tensor([0, 499, 999])
    expected = DDIMScheduler(**ddim_config()).add_noise(x0, eps, t)
    torch.testing.assert_close(scaled_linear().add_noise(x0, eps, t), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_split_gives_back_what_was_mixed(prediction):
    schedule = flow() if prediction == "flow" else scaled_linear(prediction=prediction)
    x0, eps = torch.randn(2, 1000, 3, generator=torch.Generator().manual_seed(0)).unbind()
    alpha, sigma = schedule.at(EVERY_T, 2)
    outputs = {"epsilon": eps, "v_prediction": alpha * eps - sigma * x0, "sample": x0, "flow": eps - x0}
    x_t = schedule.add_noise(x0, eps, EVERY_T)
    split_x0, split_eps = schedule.split(outputs[prediction], x_t, EVERY_T)
    # The only loss is float32 times 1/α <= 14.6 (ε) or 1/σ <= 34 (x0).
    torch.testing.assert_close(split_x0, x0, rtol=0, atol=2e-5)
    torch.testing.assert_close(split_eps, eps, rtol=0, atol=2e-5)


def test_half_precision_outputs_are_split_in_float32():
    """At t = 999 an error in ε is multiplied by 14.6: bfloat16 arithmetic would be off by several percent."""
    schedule, t = scaled_linear(), torch.tensor([999])
    x_t, output = torch.randn(1, 64), torch.randn(1, 64).bfloat16()
    x0, eps = schedule.split(output, x_t, t)
    assert x0.dtype == eps.dtype == torch.float32
    assert torch.equal(x0, schedule.split(output.float(), x_t, t)[0])


def test_flow_is_a_straight_path():
    schedule = flow()
    torch.testing.assert_close(schedule.alpha + schedule.sigma, torch.ones(1000), rtol=0, atol=0)
    assert schedule.sigma[499].item() == 0.5
    assert schedule.alpha[999].item() == 0


def test_config_of_stable_diffusion_is_read():
    schedule = from_config(SD15_CONFIG)
    assert torch.equal(schedule.alpha, scaled_linear().alpha)
    assert schedule.prediction == "epsilon"
    assert from_config({**SD15_CONFIG, "prediction_type": "v_prediction"}).prediction == "v_prediction"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"beta_schedule": "linear"}, "scaled_linear"),
        ({"beta_schedule": "squaredcos_cap_v2"}, "scaled_linear"),
        ({"prediction_type": "score"}, "epsilon, v_prediction, sample, flow"),
        ({"trained_betas": [0.1, 0.2]}, "trained_betas"),
        ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr"),
    ],
)
def test_other_configs_are_refused(change, says):
    with pytest.raises(ValueError, match=says):
        from_config({**SD15_CONFIG, **change})


def test_moving_keeps_the_parametrisation():
    assert schedules.scaled_linear(prediction="v_prediction").to("cpu").prediction == "v_prediction"
