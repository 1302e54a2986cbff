"""Bad input through the command line: one clear line, the right exit code, nothing half-written."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from hypersd.cli import app
from hypersd.cli.errors import FAILURE, MISTAKE
from tests.loras import write_lora

TOY = {"name": "toy", "base": "toy", "data": {"kind": "gaussian"}, "lora": {"rank": 1}}
STAGES = {"stages": [{"segments": 8, "iterations": 2}]}
WEIGHTS = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test works in a folder of its own, so that a stray file is seen."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def base(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny base to damage."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "base"))


@pytest.fixture
def lora(tiny_base, tmp_path: Path) -> Path:
    return write_lora(tiny_base, tmp_path / "good.safetensors")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "toy.yaml"
    path.write_text(yaml.safe_dump({**TOY, **STAGES}))
    return path


def listing() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(Path().rglob("*")) if path.is_file()}


def refused(arguments: list[Any], code: int, *words: str) -> None:
    """Exit code `code`, one line with `words` in it, and not a file more or less than before."""
    before = listing()
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    assert not [word for word in words if word not in lines[0]], lines[0]
    assert "Traceback" not in result.output
    assert result.stdout == ""
    assert listing() == before


# the recipe


def test_an_unknown_recipe_key_suggests_the_nearest(recipe: Path) -> None:
    refused(["train", recipe, "optimiser.learning=1"], MISTAKE, "'optimiser.learning'", "known are lr, betas")
    refused(["train", recipe, "optimizer.lr=1"], MISTAKE, "'optimizer'", "did you mean 'optimiser'?")
    refused(["train", recipe, "stages.0.segment=8"], MISTAKE, "did you mean 'segments'?")


def test_an_unknown_key_in_the_file_itself(recipe: Path) -> None:
    recipe.write_text(yaml.safe_dump({**TOY, **STAGES, "batchsize": 4}))
    refused(["train", recipe], MISTAKE, "'batchsize'", "did you mean 'batch'?")


def test_segments_that_do_not_divide_the_grid(recipe: Path) -> None:
    refused(["train", recipe, "stages.0.segments=3"], MISTAKE, "3 segments", "use one of 1, 2, 4, 5, 8")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("batch=0", ["'batch'", "greater than or equal to 1"]),
        ("batch", ["'batch' is not key=value"]),
        ("stages.7.segments=1", ["'7' is no index from 0 to 0"]),
        ("draw.points=41", ["41 points"]),
        ("precision=fp8", ["'precision'", "'bf16'"]),
        ("losses={nothing: {}}", ["nothing"]),
        ("base=nowhere", ["no base called 'nowhere'"]),
        ("name=[", ["not YAML"]),
        ("base_settings={foo: 1}", ["base_settings={'foo': 1}", "do not suit toy"]),
        ("losses={no.such: {}}", ["no.such"]),
        ("losses={}", ["no losses"]),
        ("sampler={nmae: ddim}", ["nmae"]),
        ("sampler={name: foo}", ["unknown sampler 'foo'"]),
        ("sampler={guidance_scale: -1}", ["'sampler.guidance_scale'"]),
        ("draw.samplers=[foo]", ["unknown sampler 'foo'"]),
        ("draw.steps=[13]", ["'draw.steps.0'", "less than or equal to 12"]),
        ("teacher.guidance=[-3, -3]", ["'teacher.guidance'", "0 (off) or more"]),
        ("teacher.guidance=[7, 3]", ["'teacher.guidance'", "the smaller first"]),
        ("stages.0.override={batch: 4}", ["stage 1 cannot override 'batch'", "only draw, teacher"]),
        ("stages.0.override={lora.rank: 4}", ["stage 1 cannot override 'lora.rank'"]),
    ],
)
def test_wrong_settings(recipe: Path, change: str, words: list[str]) -> None:
    refused(["train", recipe, change], MISTAKE, *words)


def test_no_recipe(tmp_path: Path) -> None:
    refused(["train", tmp_path / "none.yaml"], MISTAKE, "no recipe at", "recipes/")
    (tmp_path / "list.yaml").write_text("- 1")
    refused(["train", tmp_path / "list.yaml"], MISTAKE, "not a recipe")
    (tmp_path / "broken.yaml").write_text("a: [1")
    refused(["train", tmp_path / "broken.yaml"], MISTAKE, "not YAML")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x81")
    refused(["train", tmp_path / "binary.yaml"], MISTAKE, "not YAML")


# what to draw


@pytest.mark.parametrize("steps", [0, 9])
def test_steps_out_of_range(base: Path, lora: Path, steps: int) -> None:
    command = ["sample", "a fox", "--base", base, "--lora", lora, "--steps", steps]
    refused(command, MISTAKE, f"steps must be from 1 to 8 with a few-step LoRA, not {steps}")
    refused(
        ["compare", "a fox", "--base", base, "--method", lora, "--steps", f"1,{steps}"],
        MISTAKE,
        "from 1 to 8",
    )


def test_steps_without_a_lora_go_further(base: Path) -> None:
    refused(["sample", "a fox", "--base", base, "--steps", "101"], MISTAKE, "from 1 to 100 without a LoRA")
    tcd = ["sample", "a fox", "--base", base, "--steps", "51", "--sampler", "tcd"]
    refused(tcd, MISTAKE, "from 1 to 50")


@pytest.mark.parametrize("verb", ["sample", "compare"])
def test_prompts_that_are_none(base: Path, verb: str) -> None:
    refused([verb, "", "--base", base], MISTAKE, "the prompt is empty")
    refused([verb, "  ", "--base", base], MISTAKE, "the prompt is empty")


def test_a_prompt_of_10000_characters(base: Path) -> None:
    refused(["sample", "x" * 10_000, "--base", base], MISTAKE, "10,000 characters is too long", "under 2,000")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--sampler", "euler"], ["unknown sampler 'euler'", "ddim, lcm, tcd"]),
        (["--eta", "0.5"], ["'ddim' has no setting 'eta'"]),
        (["--sampler", "tcd", "--eta", "2"], ["eta must be from 0 to 1"]),
        (["--one-step", "800", "--steps", "4"], ["one_step", "there are 4: set steps to 1"]),
        (["--one-step", "1000", "--steps", "1"], ["one_step must be a timestep below 1000, not 1000"]),
        (["--one-step", "-1", "--steps", "1"], ["one_step must be a timestep"]),
        (["--guidance", "-1"], ["guidance_scale must be 0"]),
        (["--width", "15"], ["multiples of 2"]),
        (["--out", "fox.jpg"], ["--out", ".png", "'fox.jpg'"]),
        (["--out", "folder.png"], ["folder.png is a folder"]),
    ],
)
def test_wrong_options(base: Path, options: list[str], words: list[str]) -> None:
    Path("folder.png").mkdir()
    refused(["sample", "a fox", "--base", base, *options], MISTAKE, *words)


def test_an_unknown_option_suggests_the_nearest(base: Path) -> None:
    result = CliRunner().invoke(app, ["sample", "a fox", "--stepz", "4"])
    assert result.exit_code == MISTAKE
    assert "No such option: --stepz" in result.stderr
    assert "--steps" in result.stderr


# what to draw with


def test_no_such_base(base: Path, tmp_path: Path) -> None:
    refused(["sample", "a fox", "--base", tmp_path / "nowhere"], MISTAKE, "no base called", "diffusers folder")
    (base / "model_index.json").unlink()
    refused(["sample", "a fox", "--base", base], MISTAKE, "not a diffusers folder (no model_index.json in it)")


def test_a_damaged_index(base: Path) -> None:
    (base / "model_index.json").write_text('{"_class_name": "Stable')
    refused(["sample", "a fox", "--base", base], FAILURE, "model_index.json", "damaged")


@pytest.mark.parametrize("part", WEIGHTS)
def test_missing_weights(base: Path, part: str) -> None:
    (base / part / WEIGHTS[part]).unlink()
    refused(["sample", "a fox", "--base", base], FAILURE, "no weights in", f"base/{part}", "fetch the model again")


@pytest.mark.parametrize("part", WEIGHTS)
@pytest.mark.parametrize("kept", [0, 5, 0.5, 0.99])
def test_truncated_weights(base: Path, part: str, kept: float) -> None:
    path = base / part / WEIGHTS[part]
    data = path.read_bytes()
    path.write_bytes(data[: kept if isinstance(kept, int) else int(kept * len(data))])
    refused(["sample", "a fox", "--base", base], FAILURE, f"base/{part} are damaged", "fetch the model again")


@pytest.mark.parametrize("part", WEIGHTS)
def test_a_missing_tensor_is_not_left_random(base: Path, part: str) -> None:
    path = base / part / WEIGHTS[part]
    tensors = load_file(path)
    name = sorted(tensors)[0]
    del tensors[name]
    save_file(tensors, path, {"format": "pt"})
    refused(["sample", "a fox", "--base", base], FAILURE, f"base/{part} are damaged", "is not in them")


@pytest.mark.parametrize(
    "name", ["unet/config.json", "scheduler/scheduler_config.json", "tokenizer/vocab.json", "vae/config.json"]
)
def test_missing_and_damaged_settings(base: Path, name: str) -> None:
    (base / name).write_text('{"a')
    refused(["sample", "a fox", "--base", base], FAILURE, f"base/{name.split('/')[0]}")
    (base / name).unlink()
    refused(["sample", "a fox", "--base", base], FAILURE, f"base/{name.split('/')[0]}")


def test_a_base_of_pickles_is_not_opened(base: Path, tmp_path: Path) -> None:
    path = base / "unet" / WEIGHTS["unet"]
    path.unlink()
    torch.save(Bomb(tmp_path / "opened"), path.with_suffix(".bin"))
    refused(["sample", "a fox", "--base", base], FAILURE, "pickled weights", "safe_serialization=True")
    assert not (tmp_path / "opened").exists()


class Bomb:
    """Leaves a file behind when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


# the disk


@pytest.fixture(params=["write", "fsync", "replace"])
def full_disk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """No space left, noticed at the write, at the flush to disk, or at the rename."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if request.param == "write":
        monkeypatch.setattr("hypersd.atomic.open", FullFile, raising=False)
    else:
        monkeypatch.setattr(os, request.param, fail)


class FullFile:
    """A file that takes half of what is written."""

    def __init__(self, path: Path, mode: str) -> None:
        self.file = path.open(mode)

    def __enter__(self) -> FullFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, data: bytes) -> None:
        self.file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_while_a_picture_is_saved(base: Path) -> None:
    words = ["could not write fox.png", "No space left on device", "nothing was changed"]
    refused(["sample", "a fox", "--base", base, "--steps", "1", "--out", "fox.png"], FAILURE, *words)


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_leaves_the_older_picture(base: Path) -> None:
    Path("fox.png").write_bytes(b"older")
    command = ["sample", "a fox", "--base", base, "--steps", "1", "--out", "fox.png"]
    refused(command, FAILURE, "could not write")
    assert Path("fox.png").read_bytes() == b"older"


def test_a_folder_that_is_a_file(base: Path) -> None:
    Path("taken").write_text("x")
    refused(["sample", "a fox", "--base", base, "--steps", "1", "--out", "taken/fox.png"], FAILURE, "taken")


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_while_training(recipe: Path) -> None:
    Path("run").mkdir()
    refused(["train", recipe, "--out", "run"], FAILURE, "could not write run", "No space left on device")


@pytest.mark.parametrize("nth", range(1, 7))
def test_a_full_disk_at_each_write_of_a_run(recipe: Path, monkeypatch: pytest.MonkeyPatch, nth: int) -> None:
    """The log's tidying, the recipe, the log's lines, the stage's LoRA, the checkpoint, the LoRA: in some order."""
    opened = []

    def fills(path: Path, mode: str) -> Any:
        opened.append(path)
        return FullFile(path, mode) if len(opened) >= nth else path.open(mode)

    with monkeypatch.context() as disk:
        disk.setattr("hypersd.atomic.open", fills, raising=False)
        result = CliRunner().invoke(app, ["train", str(recipe), "--out", "run"])
    assert Path("run").is_dir() == (nth > 1)
    assert result.exit_code == FAILURE, result.output
    said = result.stderr.splitlines()[-1]
    assert said.startswith("error: could not write run")
    assert "No space left on device" in said
    assert not list(Path("run").rglob("*.tmp"))
    assert not Path("run/lora.safetensors").exists()


def test_a_run_is_not_overwritten(recipe: Path) -> None:
    assert CliRunner().invoke(app, ["train", str(recipe), "--out", "run"]).exit_code == 0
    refused(["train", recipe, "--out", "run"], MISTAKE, "already holds a run", "--resume")
    changed = ["train", recipe, "batch=3", "--out", "run", "--resume"]
    refused(changed, MISTAKE, "another recipe", "'batch' differs")


# how it ends


def test_in_a_process_of_its_own(recipe: Path) -> None:
    """What a shell sees: one line on stderr, nothing on stdout, the exit code."""
    command = [sys.executable, "-m", "hypersd", "train", str(recipe), "stages.0.segments=7"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment())
    assert done.returncode == MISTAKE
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "7 segments do not divide" in done.stderr


def test_debug_shows_the_traceback() -> None:
    result = CliRunner().invoke(app, ["--debug", "sample", "a fox", "--base", "nowhere"])
    assert isinstance(result.exception, ValueError)
    result = CliRunner().invoke(app, ["sample", "a fox", "--base", "nowhere"], env={"HYPERSD_DEBUG": "1"})
    assert isinstance(result.exception, ValueError)


def test_ctrl_c_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hypersd.bases.load", stop)
    result = CliRunner().invoke(app, ["sample", "a fox", "--base", "toy"])
    assert result.exit_code == 130
    assert result.stderr.strip() == "stopped"


@pytest.mark.parametrize(
    ("updates", "said"), [(1, "begins anew: there is no checkpoint yet"), (2, "with --resume goes on")]
)
def test_ctrl_c_in_training_says_what_is_kept(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, updates: int, said: str
) -> None:
    made: list[float] = []

    def stop(bars: object, iteration: int, loss: float, lr: float) -> None:
        made.append(loss)
        if len(made) == updates:
            raise KeyboardInterrupt

    monkeypatch.setattr("hypersd.distill.watch.Bars.update", stop)
    result = CliRunner().invoke(
        app, ["train", str(recipe), "checkpoint_every=1", "stages.0.iterations=4", "--out", "run"]
    )
    assert result.exit_code == 130
    assert f"stopped; the same command {said}" in result.stderr


def environment() -> dict[str, str]:
    root = str(Path(__file__).resolve().parent.parent)
    return {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
