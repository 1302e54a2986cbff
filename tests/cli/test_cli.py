"""The verbs, end to end on a tiny random base."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import hypersd
from hypersd.cli import app
from hypersd.draw import compare, png
from hypersd.draw.compare import Way
from hypersd.draw.sheet import Column, Sheet
from tests.loras import write_lora

ROOT = Path(hypersd.__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.stdout


def pixels(path: str | Path) -> bytes:
    with Image.open(path) as picture:
        return picture.tobytes()


def test_help_is_quick_and_lists_the_verbs() -> None:
    """CPU seconds, not wall clock: a busy machine must not fail this."""
    before = child_seconds()
    text = python("-m", "hypersd", "--help")
    assert child_seconds() - before < 1.0
    for verb in ("sample", "compare", "train", "merge", "evaluate", "demo"):
        assert verb in text


def child_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_nothing_heavy_is_imported_for_help() -> None:
    heavy = python("-c", "import sys, hypersd.cli; print(*sys.modules)").split()
    assert not {"torch", "diffusers", "transformers", "numpy", "PIL", "yaml", "pydantic"} & set(heavy)


def python(*arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout


def test_version() -> None:
    assert run("--version") == f"hypersd {hypersd.__version__}\n"


def test_sample_writes_a_picture_that_says_how_it_was_drawn(tiny_folder: Path, tiny_base) -> None:
    lora = write_lora(tiny_base, Path("x.safetensors").absolute(), sampler={"name": "tcd", "eta": 0.2})
    command = ["sample", "a fox", "--base", tiny_folder, "--lora", lora, "--steps", 2, "--seed", 5]
    out = run(*command, "--out", "new/fox.png")
    assert re.fullmatch(r"new/fox\.png  \d+\.\d\d s\n", out)
    drawing = png.read(Path("new/fox.png"))
    assert (drawing.prompt, drawing.seed, drawing.steps) == ("a fox", 5, 2)
    assert (drawing.sampler, drawing.sampler_settings, drawing.guidance_scale) == ("tcd", {"eta": 0.2}, 1.0)
    assert (drawing.width, drawing.height, drawing.lora) == (16, 16, "x")


def test_a_picture_is_drawn_again_from_its_seed_alone(tiny_folder: Path) -> None:
    run("sample", "a fox", "--base", tiny_folder, "--steps", 2, "--seed", 3, "--count", 3, "--out", "fox.png")
    names = ["fox-seed3.png", "fox-seed4.png", "fox-seed5.png"]
    assert sorted(path.name for path in Path().iterdir()) == names
    run("sample", "a fox", "--base", tiny_folder, "--steps", 2, "--seed", 4, "--out", "again.png")
    assert pixels("again.png") == pixels("fox-seed4.png") != pixels("fox-seed3.png")


def test_sample_names_its_file_by_the_prompt(tiny_folder: Path) -> None:
    run("sample", "A fox, Noto style!", "--base", tiny_folder, "--steps", 1)
    assert Path("outputs/a-fox-noto-style-1steps-seed0.png").is_file()


def test_sizes_and_samplers(tiny_folder: Path) -> None:
    for sampler in ("ddim", "tcd", "lcm"):
        command = ["sample", "a fox", "--base", tiny_folder, "--steps", 2, "--sampler", sampler]
        run(*command, "--width", 24, "--height", 8, "--out", f"{sampler}.png")
        with Image.open(f"{sampler}.png") as picture:
            assert picture.size == (24, 8)


def test_notices_are_one_line_each(tiny_folder: Path) -> None:
    command = [
        "sample",
        "a fox",
        "--base",
        str(tiny_folder),
        "--steps",
        "1",
        "--guidance",
        "0",
        "--count",
        "2",
    ]
    result = CliRunner().invoke(app, [*command, "--negative", "a dog"])
    assert result.exit_code == 0
    zero, negative = result.stderr.splitlines()
    assert zero.startswith("notice: guidance_scale 0 means off")
    assert negative.startswith("notice: the negative prompt does nothing")
    assert "--nag" in negative


def test_a_single_step_begins_where_it_is_told_to(tiny_folder: Path) -> None:
    command = ["sample", "a fox", "--base", tiny_folder, "--lora", "none", "--steps", 1, "--guidance", 1]
    run(*command, "--out", "usual.png")
    run(*command, "--one-step", 800, "--out", "lower.png")
    run(*command, "--one-step", 999, "--out", "same.png")
    assert pixels("lower.png") != pixels("usual.png") == pixels("same.png")
    assert png.read(Path("lower.png")).sampler_settings == {"one_step": 800}


def test_a_negative_prompt_acts_through_nag_and_the_picture_says_so(tiny_folder: Path) -> None:
    command = ["sample", "a fox", "--base", tiny_folder, "--steps", 2, "--guidance", 1]
    run(*command, "--out", "plain.png")
    result = CliRunner().invoke(app, [*map(str, command), "--negative", "a dog", "--nag", "4", "--out", "nag.png"])
    assert (result.exit_code, result.stderr) == (0, "")
    assert pixels("nag.png") != pixels("plain.png")
    assert png.read(Path("plain.png")).nag == {}
    drawing = png.read(Path("nag.png"))
    assert (drawing.negative, drawing.nag) == ("a dog", {"scale": 4.0, "tau": 2.5, "alpha": 0.5})
    assert {"NAG scale: 4", "NAG tau: 2.5", "NAG alpha: 0.5"} <= set(drawing.parameters().split(", "))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--nag", "0.5"], "nag_scale must be 1 (off) or more, such as 3, not 0.5"),
        (["--nag", "nan"], "nag_scale must be 1 (off) or more, such as 3, not nan"),
        (["--nag", "3", "--nag-tau", "0"], "nag_tau must be 1 or more, such as 2.5, not 0"),
        (["--nag", "3", "--nag-alpha", "2"], "nag_alpha must be from 0 to 1, not 2"),
        (
            ["--nag", "3", "--base", "toy"],
            "NAG needs a base with cross-attention, and this one has none: leave --nag out",
        ),
    ],
)
def test_what_nag_cannot_do_is_one_line(tiny_folder: Path, options: list[str], words: str) -> None:
    command = ["sample", "a fox", "--base", str(tiny_folder), "--steps", "1", *options]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert [line for line in result.stderr.splitlines() if line.startswith("error")] == [f"error: {words}"]


def test_compare_writes_a_sheet(tiny_folder: Path, tiny_base) -> None:
    lora = write_lora(tiny_base, Path("x.safetensors").absolute())
    methods = ["--method", "original", "--method", lora, "--method", f"{lora}/tcd"]
    command = ["compare", "a fox", "a rocket", "--base", tiny_folder, *methods, "--steps", "1,2"]
    out = run(*command, "--reference", 3, "--out", "sheet.png")
    ways = [re.split(r"  +", line)[0] for line in out.splitlines()[:-1]]
    assert ways == ["original"] + ["original, fewer steps"] * 2 + ["x"] * 2 + ["x (TCD)"] * 2
    assert out.splitlines()[-1] == "sheet.png"
    run(*command, "--reference", 3, "--turn", "--out", "turned.png")
    with Image.open("sheet.png") as sheet, Image.open("turned.png") as turned:
        assert sheet.width > turned.width
        assert sheet.height < turned.height


def test_compare_guides_the_original_as_its_lora_was_distilled(tiny_folder: Path, tiny_base, monkeypatch) -> None:
    lora = write_lora(tiny_base, Path("x.safetensors").absolute())
    with safe_open(lora, "pt") as file:
        header = file.metadata()
    save_file(load_file(lora), lora, {**header, "hyper.recipe": json.dumps({"teacher": {"guidance": [2.0, 4.0]}})})
    drawn: list[Way] = []
    original = compare.draw_ways

    def draw_ways(base: str, ways: list[Way], *rest: Any, **more: Any) -> Any:
        drawn[:] = ways
        return original(base, ways, *rest, **more)

    monkeypatch.setattr(compare, "draw_ways", draw_ways)
    command = ["compare", "a fox", "--base", tiny_folder, "--steps", 1, "--reference", 2, "--out", "x.png"]
    for methods, asked, guidance in (
        (["none", f"{lora}/tcd"], [], 3.0),
        (["none", lora], ["--guidance", 2], 2.0),
        (["original"], [], 5.0),
    ):
        run(*command, *asked, *(word for name in methods for word in ("--method", name)))
        assert {way.settings.guidance_scale for way in drawn if way.lora is None} == {guidance}
        assert [way.group for way in drawn[:2]] == ["original", "original, fewer steps"]
        assert len(drawn) == 1 + len(methods)


def test_compare_leaves_out_what_the_negative_prompt_names(tiny_folder: Path, tiny_base, monkeypatch) -> None:
    """By guidance where there is any, else by NAG."""
    lora = write_lora(tiny_base, Path("x.safetensors").absolute())
    drawn: list[Way] = []
    monkeypatch.setattr(compare, "draw_ways", lambda base, ways, *rest, **more: drawn.extend(ways) or [])
    monkeypatch.setattr(compare, "to_sheet", lambda *_: Sheet(["a"], [Column("", "")], [[Image.new("RGB", (8, 8))]]))
    command = ["compare", "a fox", "--base", tiny_folder, "--method", lora, "--steps", 1, "--out", "x.png"]
    run(*command, "--negative", "a hat", "--nag", 3)
    assert [way.settings.negative for way in drawn] == ["a hat"] * 2
    assert [(way.settings.guidance_scale, way.settings.nag_scale) for way in drawn] == [(5.0, 1.0), (1.0, 3.0)]


def test_compare_reads_prompts_from_a_file(tiny_folder: Path) -> None:
    Path("prompts.txt").write_text("a fox\n\n  a rocket  \n")
    command = ["compare", "--prompts-file", "prompts.txt", "--base", tiny_folder, "--steps", 1]
    run(*command, "--reference", 0, "--out", "two.png")
    run("compare", "a fox", "--base", tiny_folder, "--steps", 1, "--reference", 0, "--out", "one.png")
    with Image.open("one.png") as one, Image.open("two.png") as two:
        assert two.height - one.height == 128 + 8


def test_the_demo_writes_a_sheet_and_its_numbers(tiny_folder: Path, tiny_base) -> None:
    lora = write_lora(tiny_base, Path("x.safetensors").absolute())
    command = ["demo", "--base", tiny_folder, "--lora", lora, "--prompt", "a fox", "--strip", "strip.webp"]
    out = run(*command)
    assert "outputs/demo.png" in out
    assert "PROMPT=" in out
    record = json.loads(Path("outputs/demo.json").read_text())
    assert record["prompts"] == ["a fox"] * 4
    assert [(way["way"], way["steps"]) for way in record["ways"]] == [
        ("original", 25),
        *[("original, fewer steps", steps) for steps in (1, 2, 4, 8)],
        *[("distilled", steps) for steps in (1, 2, 4, 8)],
    ]
    assert all(way["seconds_per_image"] >= 0 for way in record["ways"])
    assert pixels("outputs/demo.png") != pixels("strip.webp")


def test_the_demo_does_without_what_the_judge_needs(tiny_folder: Path, tiny_base, monkeypatch) -> None:
    from hypersd.judges.networks import imagenet

    lora = write_lora(tiny_base, Path("x.safetensors").absolute())
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    imagenet.backbone.cache_clear()
    command = ["demo", "--base", str(tiny_folder), "--lora", str(lora), "--prompt", "a fox"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    (notice,) = (line for line in result.stderr.splitlines() if line.startswith("notice: "))
    assert "no match scores" in notice
    assert "pip install 'hyper-sd[eval]'" in notice
    record = json.loads(Path("outputs/demo.json").read_text())
    assert not any("match" in way for way in record["ways"])


def test_train_runs_a_recipe_and_goes_on(tmp_path: Path) -> None:
    recipe = tmp_path / "toy.yaml"
    stages = "stages: [{segments: 8, iterations: 3}, {segments: 1, iterations: 3}]"
    recipe.write_text(f"name: toy\nbase: toy\ndata: {{kind: gaussian}}\nlora: {{rank: 1}}\n{stages}\n")
    out = run("train", recipe, "batch=8", "optimiser.lr=0.01", "--out", "run")
    path = Path(out.splitlines()[-1])
    assert path.is_file()
    assert path.parent == Path("run")
    assert json.loads(Path("run/recipe.json").read_text())["batch"] == 8
    run("sample", "anything", "--base", "toy", "--lora", path, "--steps", 4, "--out", "toy.png")
    run("train", recipe, "batch=8", "optimiser.lr=0.01", "--out", "run", "--resume")


def test_evaluate_asks_for_what_was_said(monkeypatch: pytest.MonkeyPatch, tiny_folder: Path) -> None:
    from hypersd.evaluate import evaluation
    from hypersd.evaluate.report import Report, Row, Stat, Yardstick

    asked: list[dict] = []

    def measure(**settings: object) -> Report:
        asked.append(settings)
        settings["progress"]("drawing", 0.5)
        row = Row("distilled", 1, 1, "ddim", 1.0, {"alignment": Stat((0.9, 0.92))})
        return Report((row,), (Yardstick("aligned at 1 step", 0.91, 0.88, True),), {})

    monkeypatch.setattr(evaluation, "run", measure)
    monkeypatch.setenv("COLUMNS", "200")
    out = run("evaluate", "--quick", "--base", tiny_folder, "--lora", "x.safetensors", "--steps", "1,4")
    assert "0.910 ± 0.014" in out
    assert "aligned at 1 step" in out
    run("evaluate", "--base", tiny_folder, "--seeds", 2, "--split", "report", "--out", "docs/x.json")
    quick, full = asked
    assert (quick["pictures"], quick["seeds"]) == (evaluation.QUICK_PICTURES, evaluation.QUICK_SEEDS)
    assert (quick["lora"], quick["steps"]) == (Path("x.safetensors"), [1, 4])
    assert (full["pictures"], full["seeds"], full["split"]) == (evaluation.FULL_PICTURES, 2, "report")
    assert (full["lora"], full["out"]) == (None, Path("docs/x.json"))


@pytest.mark.parametrize("verb", ["sample", "compare", "train", "merge", "evaluate", "demo"])
def test_help_shows_every_word_of_it(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rich takes what stands in square brackets for markup, and drops it."""
    monkeypatch.setenv("COLUMNS", "250")
    text = " ".join(run(verb, "--help").split())
    helps = re.findall(r'help="([^"]*)"', (ROOT / f"hypersd/cli/{verb}.py").read_text())
    assert [found for found in helps if found not in text] == []
