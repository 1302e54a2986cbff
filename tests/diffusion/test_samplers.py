"""Whole sampling loops against diffusers' schedulers on the same random UNet, with the same noise."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler, LCMScheduler, TCDScheduler

from hypersd.bases.sd15 import ddim_config
from hypersd.diffusion import samplers
from hypersd.diffusion.samplers import noise_like
from hypersd.diffusion.schedule import scaled_linear
from hypersd.diffusion.solver import ode_walk

NOISE = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
CONTEXT = torch.randn(2, 16, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def net(tiny_unet):
    """(x_t, t) -> the raw output of the random UNet."""
    return lambda x, t: tiny_unet(x, t, CONTEXT).sample


def predictor(schedule, net):
    return lambda x, t: schedule.split(net(x, t), x, t)


def ours(sampler, net, steps: int, seed: int = 7, prediction="epsilon"):
    schedule = scaled_linear(prediction=prediction)
    generator = torch.Generator().manual_seed(seed)
    predict = predictor(schedule, net)
    return sampler(predict, schedule, NOISE, sampler.grid(steps), generator)


def theirs(scheduler, net, steps: int, seed: int = 7, **settings):
    scheduler.set_timesteps(steps)
    generator, x = torch.Generator().manual_seed(seed), NOISE
    for t in scheduler.timesteps:
        x = scheduler.step(net(x, t), t, x, generator=generator, **settings).prev_sample
    return x


def assert_same(a, b):
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("steps", "prediction"),
    [*((steps, "epsilon") for steps in (1, 2, 4, 5, 8)), (4, "v_prediction"), (4, "sample")],
)
def test_ddim_is_diffusers(net, steps, prediction):
    scheduler = DDIMScheduler(**ddim_config(prediction))
    mine = ours(samplers.load("ddim"), net, steps, prediction=prediction)
    assert_same(mine, theirs(scheduler, net, steps, eta=0.0))


@pytest.mark.parametrize("steps", [3, 6, 7])
def test_ddim_keeps_its_grid_where_diffusers_leaves_it(net, steps):
    """diffusers steps by T // N and lands one timestep beside its own grid (test_grids.INEXACT)."""
    mine = ours(samplers.load("ddim"), net, steps)
    off = (mine - theirs(DDIMScheduler(**ddim_config()), net, steps, eta=0.0)).norm() / mine.norm()
    assert 5e-4 < off < 2e-2


@pytest.mark.parametrize(("name", "kind"), [("ddim", TCDScheduler), ("tcd", TCDScheduler), ("lcm", LCMScheduler)])
@pytest.mark.parametrize("t", [800, 399])
def test_one_step_that_begins_lower_is_diffusers_with_that_timestep(net, name, kind, t):
    """DDIM there takes no timesteps of one's own; TCD does, and a single step of it is DDIM's."""
    sampler, scheduler = samplers.load(name, one_step=t), kind.from_config(ddim_config())
    assert sampler.grid(1) == [t]
    scheduler.set_timesteps(timesteps=[t])
    (first,) = scheduler.timesteps
    assert_same(ours(sampler, net, 1), scheduler.step(net(NOISE, first), first, NOISE).prev_sample)


@pytest.mark.parametrize("name", samplers.names())
def test_more_steps_than_one_begin_where_they_did(name):
    assert [samplers.load(name, one_step=800).grid(n) for n in (2, 4)] == [samplers.load(name).grid(n) for n in (2, 4)]


def test_what_is_said_of_one_sampler_is_meant_for_another_where_they_are_alike():
    used = {"name": "tcd", "eta": 0.5, "one_step": 800, "steps": [1, 2]}
    assert samplers.meant(used, "tcd") == {"eta": 0.5, "one_step": 800}
    assert samplers.meant(used, "ddim") == {"one_step": 800}
    assert samplers.meant({}, "ddim") == {}


@pytest.mark.parametrize(
    ("steps", "eta"), [*((steps, 0.3) for steps in range(1, 9)), (4, 0.0), (4, 0.7), (3, 1.0), (8, 1.0)]
)
def test_tcd_is_diffusers(net, steps, eta):
    scheduler = TCDScheduler.from_config(ddim_config())
    mine = ours(samplers.load("tcd", eta=eta), net, steps)
    assert_same(mine, theirs(scheduler, net, steps, eta=eta))


@pytest.mark.parametrize("steps", range(1, 9))
def test_lcm_is_diffusers(net, steps):
    scheduler = LCMScheduler.from_config(ddim_config())
    assert_same(ours(samplers.load("lcm"), net, steps), theirs(scheduler, net, steps))


@pytest.mark.parametrize("steps", [3, 6, 7])
def test_without_noise_samplers_walk_the_ode(net, steps):
    schedule = scaled_linear()
    predict = predictor(schedule, net)
    for sampler in (samplers.load("ddim"), samplers.load("tcd", eta=0.0)):
        walked = ode_walk(schedule, predict, NOISE, [*sampler.grid(steps), -1])
        assert torch.equal(ours(sampler, net, steps), walked)


def test_noise_matters_from_the_second_step_on(net):
    for sampler in (samplers.load("tcd"), samplers.load("lcm")):
        assert torch.equal(ours(sampler, net, 1, seed=1), ours(sampler, net, 1, seed=2))
        assert (ours(sampler, net, 2, seed=1) - ours(sampler, net, 2, seed=2)).abs().max() > 0.1


def test_one_generator_a_sample_makes_it_independent_of_its_batch():
    x = torch.zeros(3, 4, 8, 8)
    together = noise_like(x, [torch.Generator().manual_seed(seed) for seed in (5, 6, 7)])
    alone = noise_like(x[:1], [torch.Generator().manual_seed(6)])
    assert torch.equal(together[1:2], alone)
    assert torch.equal(noise_like(x[:1], torch.Generator().manual_seed(6)), alone)
    with pytest.raises(ValueError, match="2 generators for a batch of 3; give one for each sample"):
        noise_like(x, [torch.Generator()] * 2)


def test_the_callback_sees_every_step_and_its_x0(net):
    schedule, seen = scaled_linear(), []
    predict = predictor(schedule, net)

    def note(step: int, t: int, x0: torch.Tensor) -> None:
        seen.append((step, t, x0))

    for name, timesteps in {"ddim": [999, 749, 499, 249], "tcd": [999, 759, 499, 259]}.items():
        seen.clear()
        samplers.load(name)(predict, schedule, NOISE, timesteps, torch.Generator(), note)
        assert [(step, t) for step, t, _ in seen] == list(enumerate(timesteps))
        assert torch.equal(seen[0][2], predict(NOISE, torch.tensor([999, 999]))[0])
    final = samplers.load("lcm")(predict, schedule, NOISE, [999, 499], torch.Generator(), note)
    torch.testing.assert_close(final, seen[-1][2], rtol=1e-4, atol=1e-4)  # LCM ends at x0 itself


def test_names_are_files_and_settings_are_fields():
    assert samplers.names() == ["ddim", "lcm", "tcd"]
    assert samplers.load("tcd").eta == 0.3


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("euler", {}, "unknown sampler 'euler'; use one of ddim, lcm, tcd"),
        ("tcd", {"gamma": 0.3}, "has no setting 'gamma'; it has eta, one_step"),
        ("ddim", {"eta": 0.3}, "has no setting 'eta'; it has one_step"),
        ("lcm", {"eta": 0.3}, "has no setting 'eta'; it has one_step"),
        ("ddim", {"one_step": 800.5}, "one_step must be a timestep, a whole number of 0 or more, not 800.5"),
        ("tcd", {"eta": 1.1}, "eta must be from 0 to 1, not 1.1"),
    ],
)
def test_wrong_names_and_settings_name_the_remedy(name, settings, says):
    with pytest.raises(ValueError, match=says):
        samplers.load(name, **settings)
