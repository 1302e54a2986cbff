"""hypersd merge, from two files to one that is drawn with."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from hypersd.bundled import LORA
from hypersd.cli import app
from hypersd.draw.pipeline import settings_for
from hypersd.lora import algebra, files
from tests.cli.test_cli import here, run
from tests.conftest import make_unet
from tests.lora.test_files import make
from tests.loras import write_lora

__all__ = ["here"]  # a fixture


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of rank 2 in float16 that says how it wants to be used, one of rank 3 in float32."""
    folder, base = tmp_path_factory.mktemp("loras"), SimpleNamespace(unet=make_unet())
    write_lora(base, folder / "first.safetensors", sampler={"name": "tcd", "eta": 0.2})
    make(base, folder / "second.safetensors", rank=3)
    return folder


@pytest.fixture
def pair(made: Path, here: Path) -> tuple[Path, Path]:
    """Copies to change."""
    first, second = (Path(shutil.copy(made / f"{name}.safetensors", here)) for name in ("first", "second"))
    return first, second


def expected(pair: tuple[Path, Path], strengths: tuple[float, float]) -> dict[str, torch.Tensor]:
    return algebra.concatenate([files.read(path).weights for path in pair], strengths)


def test_an_exact_merge(pair: tuple[Path, Path]) -> None:
    assert run("merge", *pair, "--strengths", "-1,0.7", "--out", "new/m.safetensors") == (
        "new/m.safetensors  rank 5, exact\n"
    )
    first, _ = (files.read(path) for path in pair)
    merged = files.read(Path("new/m.safetensors"))
    assert (merged.rank, merged.dtype) == (5, torch.float32)
    assert (merged.base, merged.recipe, merged.sampler) == (first.base, first.recipe, first.sampler)
    total = expected(pair, (-1, 0.7))
    assert merged.weights.keys() == total.keys()
    assert all(torch.equal(merged.weights[name], total[name]) for name in total)
    parts = [("first.safetensors", -1.0, 2), ("second.safetensors", 0.7, 3)]
    said = [{"file": file, "strength": strength, "rank": rank} for file, strength, rank in parts]
    assert merged.merged == {"loras": said, "rank": 5, "kept": 1.0}


def test_a_merge_of_a_lower_rank(pair: tuple[Path, Path]) -> None:
    nearest, kept = algebra.truncate(expected(pair, (1, 1)), 2)
    out = run("merge", *pair, "--rank", 2, "--out", "m.safetensors")
    assert out == f"m.safetensors  rank 2, {100 * kept:.2f} % of the norm kept\n"
    merged = files.read(Path("m.safetensors"))
    assert (merged.rank, merged.merged["rank"]) == (2, 2)
    assert merged.merged["kept"] == pytest.approx(kept)
    for a, b in files.layers(nearest).values():
        got, best = (state[b].flatten(1) @ state[a].flatten(1) for state in (merged.weights, nearest))
        torch.testing.assert_close(got, best, rtol=1e-4, atol=1e-4)


def test_a_rank_above_the_sum_is_noticed(pair: tuple[Path, Path]) -> None:
    result = CliRunner().invoke(app, ["merge", *map(str, pair), "--rank", "6", "--out", "m.safetensors"])
    assert result.exit_code == 0, result.output
    assert result.stdout == "m.safetensors  rank 5, exact\n"
    assert result.stderr == "notice: rank 6 is above 5, that of the exact sum: there is nothing to truncate\n"


def test_the_files_dtype_is_kept_unless_said(pair: tuple[Path, Path]) -> None:
    for options, dtype in (([], torch.float16), (["--dtype", "fp32"], torch.float32)):
        run("merge", pair[0], pair[0], "--out", "m.safetensors", *options)
        assert {tensor.dtype for tensor in load_file("m.safetensors").values()} == {dtype}


def test_how_to_use_it_is_what_the_first_that_knows_says(pair: tuple[Path, Path]) -> None:
    """A third party's LoRA, which says nothing, may be named first."""
    first, second = pair
    save_file(load_file(second), second, {"format": "pt"})
    run("merge", second, first, "--out", "m.safetensors")
    merged, said = files.read(Path("m.safetensors")), files.read(first)
    assert (merged.base, merged.recipe, merged.sampler) == (said.base, said.recipe, said.sampler)


def test_where_a_single_step_begins_may_be_said(pair: tuple[Path, Path]) -> None:
    run("merge", *pair, "--one-step", "710", "--hint", "1 step from 710", "--out", "m.safetensors")
    merged, said = files.read(Path("m.safetensors")), files.read(pair[0])
    assert merged.sampler == {**said.sampler, "one_step": 710, "hint": "1 step from 710"}
    assert settings_for(merged, 1).sampler_settings["one_step"] == 710


def test_one_lora_may_be_told_another_beginning(pair: tuple[Path, Path]) -> None:
    run("merge", pair[0], "--hint", "1 step from 700", "--out", "m.safetensors")
    result = CliRunner().invoke(app, ["merge", "m.safetensors", "--one-step", "710", "--out", "n.safetensors"])
    assert "still '1 step from 700': --hint changes it" in " ".join(result.stderr.split())
    told, said = files.read(Path("n.safetensors")), files.read(pair[0])
    assert told.sampler == {**said.sampler, "hint": "1 step from 700", "one_step": 710}
    assert all(torch.equal(told.weights[name], said.weights[name]) for name in said.weights)


@pytest.mark.parametrize("t", ["1000", "-1"])
def test_a_single_step_begins_at_a_timestep(pair: tuple[Path, Path], t: str) -> None:
    result = CliRunner().invoke(app, ["merge", *map(str, pair), "--one-step", t, "--out", "m.safetensors"])
    assert result.exit_code == 2
    assert "--one-step wants a timestep from 0 to 999" in result.stderr
    assert not Path("m.safetensors").exists()


def test_a_merge_of_a_merge_says_both(pair: tuple[Path, Path]) -> None:
    run("merge", *pair, "--out", "m.safetensors")
    run("merge", "m.safetensors", pair[0], "--out", "again.safetensors")
    inner, plain = files.read(Path("again.safetensors")).merged["loras"]
    assert [part["file"] for part in inner["merged"]["loras"]] == [path.name for path in pair]
    assert "merged" not in plain


def test_the_bundled_one_has_its_short_name() -> None:
    run("merge", "bundled", LORA, "--strengths", "0.5,0.5", "--out", "m.safetensors")
    assert files.read(Path("m.safetensors")).merged["loras"][0]["file"] == LORA.name


def test_loras_of_fine_tunes_are_merged_with_a_notice(pair: tuple[Path, Path]) -> None:
    other = files.read(pair[1])
    shape, base = (other.rank, other.rank, other.targets), {**other.base, "weights": "0" * 12}
    files.write(pair[1], other.weights, shape, base, {}, {})
    result = CliRunner().invoke(app, ["merge", *map(str, pair), "--out", "m.safetensors"])
    assert result.exit_code == 0, result.output
    assert "notice: second.safetensors was trained on other weights than first.safetensors" in result.stderr


def test_what_shares_neither_layers_nor_weights_is_not_merged(pair: tuple[Path, Path]) -> None:
    other = files.read(pair[1])
    weights = {f"elsewhere.{name}": weight for name, weight in other.weights.items()}
    shape, base = (other.rank, other.rank, other.targets), {**other.base, "weights": "0" * 12}
    files.write(pair[1], weights, shape, base, {}, {})
    result = CliRunner().invoke(app, ["merge", *map(str, pair), "--out", "m.safetensors"])
    assert result.exit_code == 2
    assert "second.safetensors was trained on another base: it shares no layer with first.safetensors" in result.stderr


def test_a_checkpoint_is_no_lora(pair: tuple[Path, Path]) -> None:
    save_file(load_file(pair[1]), pair[1], {"run": "{}"})
    result = CliRunner().invoke(app, ["merge", *map(str, pair), "--out", "m.safetensors"])
    assert result.exit_code == 2
    assert "second.safetensors is the checkpoint of a run: give the lora.safetensors beside it" in result.stderr
