"""What docs/use_it.md says in Python runs as it is written, and a stock pipeline then draws what we draw."""

from __future__ import annotations

import re
import runpy
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hypersd import bases
from hypersd.diffusion.grids import trailing
from hypersd.draw.pipeline import Drawer, Settings, start
from hypersd.export import merged
from tests.export.test_merged import write as write_network
from tests.loras import write_lora

PAGE = Path(__file__).parents[2] / "docs" / "use_it.md"
SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL))
HOW = {"guidance_scale": 1.0, "output_type": "latent"}


def snippets(section: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", SECTIONS[section], re.MULTILINE | re.DOTALL)


def run(*parts: str) -> dict:
    """The snippets one after the other, in the working folder; what they leave."""
    Path("snippet.py").write_text("".join(parts))
    return runpy.run_path("snippet.py")


@pytest.fixture
def here(tiny_folder, tiny_base, tmp_path, monkeypatch):
    """A folder with what the page names; its network minds what timestep it is told, as a random one hardly does."""
    folder = shutil.copytree(tiny_folder, tmp_path / "path/to/a/diffusers/folder")
    weights = load_file(network := folder / "unet" / merged.WEIGHTS)
    weights["time_embedding.linear_2.weight"] *= 30
    save_file(weights, network)
    write_lora(tiny_base, tmp_path / "lora.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_pages_python_runs_as_it_is_written(here):
    run(*snippets("From Python"))
    network = write_network(bases.load("path/to/a/diffusers/folder", "cpu"), here / "unet.safetensors")
    merged.write(network, here / "path/to/a/diffusers/folder", here / "runs/one-step/model")
    run(*snippets("A network of its own"))
    assert sorted(path.name for path in here.glob("*.png")) == ["apple.png", "castle.png"]


def test_one_step_that_begins_lower_is_ours(here):
    pipe = run(*snippets("In diffusers")[:2])["pipe"]
    drawer = Drawer.load("path/to/a/diffusers/folder", Path("lora.safetensors"))
    ours = drawer.latents(["a fox"], [5], Settings(1, sampler_settings={"one_step": 700}))
    theirs = pipe("a fox", timesteps=[700], latents=start(drawer.base, [5])[0], **HOW).images
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4)
    assert (ours - drawer.latents(["a fox"], [5], Settings(1))).norm() > 0.01 * ours.norm()


def away(drawn: torch.Tensor, from_: torch.Tensor) -> float:
    return float((drawn - from_).norm() / from_.norm())


def test_a_stock_pipeline_with_a_lower_scheduler_draws_a_step_code(here):
    """The code's own effect is a thousand times the bound. With the usual scheduler the same timesteps are wrong by a
    good part of it, since its arithmetic follows them.
    """
    from diffusers import TCDScheduler

    first, _, coded = snippets("In diffusers")
    found = run(first, coded)
    pipe, code = found["pipe"], found["code"]
    assert found["told"] == [t - found["less"] for t in trailing(found["steps"])]
    how = {**HOW, "latents": start(bases.load("path/to/a/diffusers/folder", "cpu"), [5])[0]}
    for steps in (found["steps"], 2):  # one after the other, from the same pipeline
        drawer = Drawer(bases.load("path/to/a/diffusers/folder", "cpu"), Path("lora.safetensors"))
        uncoded = drawer.latents(["a fox"], [5], Settings(steps))
        drawer.step_code = code
        ours = drawer.latents(["a fox"], [5], Settings(steps))

        less = code * (steps - 1)
        told = [t - less for t in trailing(steps)]
        pipe.scheduler = found["lower"](less)
        assert away(pipe("a fox", timesteps=told, **how).images, ours) < 1e-5
        pipe.scheduler = TCDScheduler.from_config(found["usual"].config)
        assert away(pipe("a fox", timesteps=trailing(steps), **how).images, uncoded) < 1e-5
        assert away(uncoded, ours) > 1e-2
        followed = away(pipe("a fox", timesteps=told, **how).images, ours)
        assert followed > {4: 0.5, 2: 0.1}[steps] * away(uncoded, ours)
