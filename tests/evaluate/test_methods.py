"""Methods at an equal budget: what is counted, what is scaled, and what is never made twice."""

from __future__ import annotations

import json

import pytest
import yaml
from typer.testing import CliRunner

from hypersd import recipe
from hypersd.cli import app
from hypersd.cli.bench import _recipes
from hypersd.distill.watch import Silent
from hypersd.evaluate import comparison, evaluation
from hypersd.evaluate.methods import Run, bench, drawing, drawn_by
from hypersd.evaluate.report import Report, Row, Stat

TOY = {
    "name": "toy",
    "base": "toy",
    "data": {"kind": "gaussian"},
    "lora": {"rank": 1, "dtype": "fp32"},
    "teacher": {"guidance": [1, 1]},
    "batch": 8,
    "stages": [{"segments": 8, "iterations": 30}, {"segments": 1, "iterations": 10}],
}


def test_which_file_draws_in_how_many_steps(tmp_path):
    stages = [{"segments": k, "iterations": 1} for k in (8, 4, 1, 1)]
    run = Run(recipe.parse({**TOY, "stages": stages, "sampler": {"steps": [1, 2]}}), tmp_path, tmp_path)
    names = {file.name: steps for file, steps in drawn_by(run, (1, 2, 4, 6, 8)).items()}
    expected = {"lora.safetensors": [1, 2], "stage2-4segments.safetensors": [4], "stage1-8segments.safetensors": [8]}
    assert names == expected


@pytest.fixture
def measured(monkeypatch):
    """Instead of an evaluation: what was asked of it, and a row for each number of steps."""
    asked = []

    def run(base, file, out, steps, **settings):
        asked.append((base, file.name, tuple(steps), settings["pictures"]))
        assert file.is_file()
        rows = [Row("distilled", n, n, "ddim", 1.0, {"alignment": Stat((0.9,))}) for n in steps]
        rows.append(Row("teacher", 25, 50, "ddim", 5.0, {"alignment": Stat((1.0,))}))
        about = {"pictures": settings["pictures"], "split": "develop", "seeds": 1, "machine": "here"}
        about |= {"command": "hypersd bench", "guidance": 5.0}
        return Report(tuple(rows), (), {"floor": 1.0}, about=about)

    monkeypatch.setattr(evaluation, "run", run)
    return asked


def compare(folder, seed=0, budget=800, watch=None):
    run = Run(recipe.parse({**TOY, "seed": seed, "checkpoint_every": 3}), folder / "out", folder / "runs")
    return run, bench(run, budget, (1, 8), watch or Silent(), print, pictures=64)


def test_a_run_is_made_once_and_says_what_it_was(tmp_path, measured):
    run, made = compare(tmp_path)
    assert made
    assert measured == [("toy", "lora.safetensors", (1, 8), 64)]
    found = json.loads(run.file.read_text())
    assert found["about"]["forward_equivalents"] == 800
    assert found["iterations"] == [15, 5]
    assert [row["steps"] for row in found["rows"]] == [1, 8]
    assert compare(tmp_path)[1] is False
    assert len(measured) == 1


def test_all_can_be_measured_against_one_teacher(tmp_path, monkeypatch, measured):
    """Whatever guidance a recipe's own paths have."""
    run, of_tests, given = Run(recipe.parse(TOY), tmp_path / "out", tmp_path / "runs"), evaluation.run, []

    def noting(*where, **settings):
        given.append(settings.get("guidance"))
        return of_tests(*where, **settings)

    monkeypatch.setattr(evaluation, "run", noting)
    where = [f"--{name}={tmp_path / name}" for name in ("recipes", "runs", "out")]
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "toy.yaml").write_text(yaml.safe_dump(TOY))
    command = ["bench", "methods", "--methods", "toy", "--budget", "800", "--steps", "1,8", *where, "--guidance"]
    refused = CliRunner().invoke(app, [*command, "-1"])
    assert refused.exit_code
    assert not run.folder.exists()
    for _ in range(2):
        assert CliRunner().invoke(app, [*command, "5"]).exit_code == 0
    assert CliRunner().invoke(app, [*command[:-1], "--seeds", "1"]).exit_code == 0
    assert given == [5.0, 5.0], "what is there says the teacher of what comes"
    with pytest.raises(ValueError, match=r"toy-0\.json was not measured in guidance 3: delete it"):
        bench(run, 800, (1, 8), Silent(), print, guidance=3.0)


def test_a_recipe_in_a_folder_below_is_named_with_it(tmp_path, measured):
    (tmp_path / "recipes" / "ablations").mkdir(parents=True)
    (tmp_path / "recipes" / "ablations" / "toy.yaml").write_text(yaml.safe_dump({**TOY, "name": "toy-coded"}))
    where = [f"--{name}={tmp_path / name}" for name in ("recipes", "runs", "out")]
    command = ["bench", "methods", "--methods", "ablations/toy", "--budget", "800", "--steps", "1,8", *where]
    result = CliRunner().invoke(app, command)
    assert (result.exit_code, result.stdout.strip()) == (0, str(tmp_path / "out" / "toy-coded-0.json"))
    assert (tmp_path / "runs" / "toy-coded-0" / "lora.safetensors").is_file()


def test_what_stands_there_of_another_run_is_not_taken_for_it(tmp_path, measured):
    compare(tmp_path)
    with pytest.raises(ValueError, match=r"toy-0.json is of another run \(budget differs\); delete it"):
        compare(tmp_path, budget=900)


@pytest.mark.parametrize(
    ("steps", "pictures", "missing"), [((1, 4), 64, "4 steps"), ((1, 8), 96, "96 pictures")], ids=["steps", "pictures"]
)
def test_what_was_not_measured_so_is_not_passed_off_as_measured(tmp_path, measured, steps, pictures, missing):
    made = recipe.parse({**TOY, "sampler": {"steps": [1, 4, 8]}})
    run = Run(made, tmp_path / "out", tmp_path / "runs")
    bench(run, 800, (1, 8), Silent(), print, pictures=64)
    with pytest.raises(
        ValueError, match=f"toy-0.json was not measured in {missing}: delete it, what was trained stays"
    ):
        bench(run, 800, steps, Silent(), print, pictures=pictures)


def test_the_seed_is_an_option_of_its_own(tmp_path):
    with pytest.raises(ValueError, match="seed= is --seeds here"):
        _recipes("toy", [0], tmp_path, ["seed=5"])


def test_what_was_trained_on_top_of_a_lora_has_no_stage_that_draws(tmp_path):
    values = {**TOY, "sampler": {"steps": [1]}, "stages": [{"segments": 4, "iterations": 1}]}
    run, above = (
        Run(recipe.parse({**values, **lora}), tmp_path, tmp_path) for lora in ({}, {"lora": {"beneath": "bundled"}})
    )
    assert drawing(run, 4).name == "stage1-4segments.safetensors"
    assert drawing(above, 4) is None


def test_a_result_of_an_older_program_is_the_same_run(tmp_path, measured):
    """Which did not know a key that nobody has given."""
    run, _ = compare(tmp_path)
    found = json.loads(run.file.read_text())
    del found["recipe"]["draw"]["eta"]
    run.file.write_text(json.dumps(found))
    assert compare(tmp_path)[1] is False


def test_what_draws_in_none_of_the_steps_is_told_before_it_is_trained(tmp_path, measured):
    made = recipe.parse({**TOY, "sampler": {"steps": [4]}, "stages": [{"segments": 4, "iterations": 9}]})
    with pytest.raises(ValueError, match="toy makes nothing that draws in 1 or 8 steps"):
        bench(Run(made, tmp_path / "out", tmp_path / "runs"), 800, (1, 8), Silent(), print, pictures=64)
    assert not (tmp_path / "runs").exists()


def test_a_recipe_that_cannot_be_trained_is_told_before_another_is(tmp_path):
    """Its loss follows paths, and the data has none."""
    sound = {key: value for key, value in TOY.items() if key != "name"}
    (tmp_path / "sound.yaml").write_text(yaml.safe_dump({"name": "sound", **sound}))
    (tmp_path / "broken.yaml").write_text(yaml.safe_dump({"name": "broken", **sound, "losses": {"regression": {}}}))
    where = ["--recipes", str(tmp_path), "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    told = CliRunner().invoke(app, ["bench", "methods", "--methods", "sound,broken", *where])
    assert "follows the teacher's paths: set data={kind: paths}" in " ".join(told.output.split()) + str(told.exception)
    assert not (tmp_path / "runs").exists()


def test_a_whole_network_is_drawn_with_by_its_folder(tmp_path):
    made = recipe.parse({**TOY, "student": "full", "sampler": {"steps": [1]}})
    run = Run(made, tmp_path, tmp_path)
    assert drawn_by(run, (1, 8)) == {run.folder / "model": [1]}


def test_an_interrupted_one_goes_on(tmp_path, measured):
    class Stop(Silent):
        def update(self, iteration, loss, lr):
            if iteration == 7:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(tmp_path, watch=Stop())
    run, made = compare(tmp_path)
    assert made
    lines = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines if line["stage"] == 0] == list(range(15))
    updates = [json.loads(line) for line in (run.folder / "passes.jsonl").read_text().splitlines()]
    assert [each["iteration"] for each in updates] == [*range(7), 6, *range(7, 15), *range(5)]
    assert json.loads(run.file.read_text())["about"]["forward_equivalents"] == 800


def test_the_page_joins_the_seeds_of_a_method(tmp_path, measured):
    for seed in (0, 1, 2):
        compare(tmp_path, seed)
    page = tmp_path / "results.md"
    page.write_text("# Results\n\nBefore.\n")
    comparison.write_page(tmp_path / "out", page)
    text = page.read_text()
    assert "| 1 | toy | ddim | 1 | 0.900 ± 0.000 |" in text
    assert "| method | 1 step | 8 steps |\n| --- | --- | --- |\n| toy | " in text
    assert "| 25 | base, the teacher | ddim | 5 | 1.000 |" in text
    assert "a look, not a result" not in text
    assert "800 to 800 forward-equivalents" in text
    assert "| toy | 2 | 15, 5 | 800 |" in text
    comparison.write_page(tmp_path / "out", page)
    assert page.read_text() == text
    with pytest.raises(ValueError, match="holds no results"):
        comparison.write_page(tmp_path / "nothing", page)
