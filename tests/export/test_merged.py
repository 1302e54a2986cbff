"""The folder of a network of its own: a stock pipeline draws what our sampler draws, and `sample` what it asks for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from typer.testing import CliRunner

from hypersd import atomic, bases
from hypersd.bases.sd15 import ddim_config
from hypersd.cli import app
from hypersd.draw import png
from hypersd.draw.pipeline import Drawer, settings_for, start, usual_steps
from hypersd.evaluate import evaluation, protocol
from hypersd.evaluate.eyes import Eyes
from hypersd.export import merged
from hypersd.lora import files, network

SAMPLER = {"name": "ddim", "one_step": 800, "steps": [1], "guidance_scale": 1.0, "hint": "", "step_code": 0}
RECIPE = {"name": "made", "teacher": {"guidance": [4.0, 6.0]}}


def write(base, path: Path, sampler: dict = SAMPLER) -> Path:
    """The file of a network that draws something else than the base."""
    generator = torch.Generator().manual_seed(1)
    state = base.unet.state_dict()
    state = {name: weight + 0.05 * torch.randn(weight.shape, generator=generator) for name, weight in state.items()}
    network.write(path, state, files.fingerprint(base.unet, "epsilon"), RECIPE, sampler, torch.float32)
    return path


@pytest.fixture
def folder(tiny_folder, tiny_base, tmp_path) -> Path:
    return merged.write(write(tiny_base, tmp_path / "unet.safetensors"), tiny_folder, tmp_path / "model")


def stock(folder: Path, seed: int, **how) -> torch.Tensor:
    """A picture of a pipeline that knows nothing of us, from our noise."""
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(folder, use_safetensors=True, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    latents, _ = start(bases.load(folder, "cpu"), [seed])
    return pipe("a fox", latents=latents, guidance_scale=1.0, output_type="pt", **how).images[0]


def test_a_stock_pipeline_draws_what_we_draw(folder, tiny_base):
    drawer = Drawer.load(str(folder))
    ours = drawer.draw(["a fox"], [7], settings_for(drawer.made, usual_steps(drawer.made)))[0]
    torch.testing.assert_close(stock(folder, 7, timesteps=[800]), ours, rtol=1e-4, atol=1e-4)
    for other in (Drawer(tiny_base).draw(["a fox"], [7], settings_for(drawer.made, 1))[0], stock(folder, 7)):
        assert (ours - other).abs().max() > 1e-2  # neither the base nor other timesteps


def test_a_network_for_more_steps_is_drawn_with_as_usual(tiny_folder, tiny_base, tmp_path):
    trained = write(tiny_base, tmp_path / "unet.safetensors", {"name": "ddim", "steps": [2, 4]})
    folder = merged.write(trained, tiny_folder, tmp_path / "model")
    drawer = Drawer.load(str(folder))
    ours = drawer.draw(["a fox"], [7], settings_for(drawer.made, usual_steps(drawer.made)))[0]
    torch.testing.assert_close(stock(folder, 7, num_inference_steps=4), ours, rtol=1e-4, atol=1e-4)


def test_the_folder_and_the_weights_say_what_they_are(folder, tiny_folder):
    base = bases.load(folder, "cpu")
    assert base.distilled == bases.Distilled(RECIPE, SAMPLER)
    assert bases.load(tiny_folder, "cpu").distilled is None
    with safe_open(folder / "unet" / merged.WEIGHTS, "pt") as file:
        header = file.metadata()
    assert json.loads(header["hyper.sampler"]) == SAMPLER
    assert json.loads(header["hyper.base"]) == json.loads((folder / bases.ABOUT).read_text())["base"]
    settings = json.loads((folder / "scheduler" / merged.SCHEDULER).read_text())
    assert {key: settings[key] for key in ("beta_start", "beta_end", "set_alpha_to_one", "prediction_type")} == {
        key: ddim_config()[key] for key in ("beta_start", "beta_end", "set_alpha_to_one", "prediction_type")
    }
    assert settings_for(base.distilled, 1).guidance_scale == 1.0
    with pytest.warns(UserWarning, match="4 steps: it was made for 1, and more are no better"):
        settings_for(base.distilled, 4)


def test_weights_in_pieces_and_pickles_stay_behind(tiny_folder, tiny_base, tmp_path):
    base = shutil.copytree(tiny_folder, tmp_path / "base")
    (base / "unet" / "old.bin").write_bytes(b"pickle")
    (base / "unet" / f"{merged.WEIGHTS}.index.json").write_text("{}")
    (base / "sd.ckpt").write_bytes(b"pickle")
    folder = merged.write(write(tiny_base, tmp_path / "unet.safetensors"), base, tmp_path / "model")
    assert sorted(path.name for path in (folder / "unet").iterdir()) == ["config.json", merged.WEIGHTS]
    assert not list(folder.rglob("*.ckpt"))
    assert (folder / "vae" / merged.WEIGHTS).read_bytes() == (base / "vae" / merged.WEIGHTS).read_bytes()


def test_it_is_whole_or_not_there(folder, tiny_folder, tmp_path, monkeypatch):
    """A disk that fills up leaves the old folder as it was; what a killed process left is swept."""
    before = (folder / "unet" / merged.WEIGHTS).read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(shutil, "copyfile", full)
        with pytest.raises(OSError, match=r"could not write .*model: No space left on device"):
            merged.write(tmp_path / "unet.safetensors", tiny_folder, folder)
    assert (folder / "unet" / merged.WEIGHTS).read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "unet.safetensors"]
    (tmp_path / ".model.123.tmp" / "unet").mkdir(parents=True)
    atomic.sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "unet.safetensors"]
    merged.write(tmp_path / "unet.safetensors", tiny_folder, folder)  # takes the old one's place


def test_what_cannot_be_is_told(tiny_folder, tiny_base, tmp_path):
    trained = write(tiny_base, tmp_path / "unet.safetensors")
    (tmp_path / "mine").mkdir()
    with pytest.raises(ValueError, match="mine is there already, and not a folder of ours"):
        merged.write(trained, tiny_folder, tmp_path / "mine")
    with pytest.raises(ValueError, match=r"trained on another base: its \w+ is .*, this base has"):
        merged.write(trained, bases.folder("emoji"), tmp_path / "model")
    with pytest.raises(OSError, match=r"damaged \(no 'hyper.recipe' in it\); train it again"):
        merged.write(tiny_folder / "unet" / merged.WEIGHTS, tiny_folder, tmp_path / "model")
    with pytest.raises(ValueError, match=r"is not a LoRA .*: it is a whole network"):
        files.read(trained)
    assert not (tmp_path / "model").exists()


def test_a_damaged_description_is_one_line(folder):
    for damage in ("{", "{}", json.dumps({"recipe": {}, "sampler": {"steps": "many"}})):
        (folder / bases.ABOUT).write_text(damage)
        with pytest.raises(OSError, match=r"hypersd.json is damaged \(.*\); fetch the model again"):
            bases.load(folder, "cpu")


def test_it_stands_where_a_lora_can(folder, tiny_folder, tmp_path):
    """And draws instead of the base, from the timestep that it was made for."""
    nobody = object.__new__(Eyes)  # looks at nothing here
    studio = evaluation.open_studio(str(tiny_folder), folder, 1.0, "fp32", tmp_path, nobody)
    (plan,) = protocol.students([1], studio.tuned.made)
    assert plan.settings == settings_for(bases.distilled(folder), 1)
    assert plan.settings.sampler_settings == {"one_step": 800}
    drawn = studio.drawer(plan).draw(["a fox"], [1], plan.settings)
    assert torch.equal(drawn, Drawer.load(str(folder)).draw(["a fox"], [1], plan.settings))
    assert not torch.allclose(drawn, studio.plain.draw(["a fox"], [1], plan.settings), atol=1e-2)
    assert studio.identity["lora"] != studio.identity["base"]
    with pytest.raises(ValueError, match="has no scale"):
        Drawer.load(str(tiny_folder), folder, 0.5)
    with pytest.raises(ValueError, match=r"does not say how it was distilled \(no hypersd.json\)"):
        Drawer.load(str(tiny_folder), tiny_folder)


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.output


def test_from_a_recipe_to_a_picture(tiny_folder, tmp_path, monkeypatch):
    """All of the network is trained, and the picture is drawn as its folder asks: in one step from 800."""
    monkeypatch.chdir(tmp_path)
    Path("one.yaml").write_text(
        f"""name: one
base: {tiny_folder}
data: {{kind: paths, pool: 4}}
student: full
lora: {{dtype: fp32}}
teacher: {{guidance: [2, 2]}}
draw: {{points: 8, end: visited, visited_share: 1, samplers: [ddim], steps: [1]}}
losses: {{rollout: {{}}}}
batch: 4
stages: [{{segments: 1, iterations: 2}}]
sampler: {{name: ddim, one_step: 800, steps: [1]}}
gradient_checkpointing: true
sample_every: 2
sample_prompts: [a fox]
"""
    )
    out = run("train", "one.yaml")
    assert out.splitlines()[-1] == "runs/one/model"
    assert (tmp_path / "runs/one/samples/stage1-000002.png").is_file()
    before, after = (bases.load(path, "cpu").unet.state_dict() for path in (tiny_folder, "runs/one/model"))
    still = [name for name, weight in before.items() if torch.equal(weight, after[name])]
    assert still == []
    run("sample", "a fox", "--base", "runs/one/model", "--out", "fox.png")
    drawing = png.read(Path("fox.png"))
    assert (drawing.steps, drawing.sampler_settings, drawing.guidance_scale) == (1, {"one_step": 800}, 1.0)
    noticed = run("sample", "a fox", "--base", "runs/one/model", "--steps", 4, "--out", "fox.png")
    assert "notice: 4 steps: it was made for 1" in noticed
    assert "steps must be from 1 to 8" in run("sample", "a fox", "--base", "runs/one/model", "--steps", 9, code=2)
    assert "is not a diffusers folder" in run("sample", "a fox", "--base", "runs/one", code=2)
    assert run("train", "one.yaml", "--resume").splitlines()[-1] == "runs/one/model"
    assert "no teacher: set base to" in run("train", "one.yaml", "base=runs/one/model", "--out", "two", code=2)
    run("sample", "a fox", "--base", tiny_folder, "--lora", "runs/one/model", "--steps", 1, "--out", "same.png")
    run("sample", "a fox", "--base", "runs/one/model", "--steps", 1, "--out", "fox.png")
    pictures = [np.asarray(Image.open(name)) for name in ("fox.png", "same.png")]
    assert np.array_equal(*pictures)
    ways = ("--method", "runs/one/model", "--method", "original", "--steps", 1, "--reference", 2)
    assert "one/model" in run("compare", "a fox", "--base", tiny_folder, *ways, "--out", "sheet.png")
