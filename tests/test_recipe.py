"""Recipes are strict, and every mistake is one line that says the remedy."""

from __future__ import annotations

import json
import warnings
from contextlib import nullcontext
from pathlib import Path

import pytest
import yaml

from hypersd import cache, dotted, recipe
from hypersd.distill import resolve
from hypersd.judges.networks import vgg
from tests.pictures import write_latents

RECIPES = sorted((Path(__file__).parents[1] / "recipes").rglob("*.yaml"))
LEAST = {"name": "least", "stages": [{"segments": 8, "iterations": 10}]}


@pytest.fixture
def fetched(monkeypatch, tmp_path):
    """As if LPIPS' network had been: whether it is there is asked, and nothing of it is read."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache.folder().mkdir()
    (cache.folder() / vgg.FILE).touch()


@pytest.mark.usefixtures("fetched")
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_in_the_repository_is_valid(path, tmp_path):
    made = recipe.load(path)
    assert made.name == path.stem
    if "path" in made.data:  # of pictures, which are not here
        write_latents(tmp_path / "latents.safetensors")
        made = recipe.load(path, [f"data.path={tmp_path / 'latents.safetensors'}"])
    assert recipe.parse(json.loads(made.model_dump_json())) == made
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resolve.check(made)


def test_assignments_reach_every_depth(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(json.dumps({**LEAST, "losses": {"consistency": {"distance": "mse"}}}))
    made = recipe.load(path, ["batch=4", "lora.rank=8", "stages.0.iterations=3", "losses.consistency.c=0.01"])
    assert (made.batch, made.lora.rank, made.stages[0].iterations) == (4, 8, 3)
    assert made.losses["consistency"] == {"distance": "mse", "c": 0.01}


@pytest.mark.parametrize(
    ("override", "assignment", "expected"),
    [
        ({}, "optimiser.lr=0.1", {"optimiser.lr": 0.1}),
        ({"optimiser": {"lr": 1}}, "optimiser.lr=0.1", {"optimiser": {"lr": 0.1}}),
        ({"losses.a": {"weight": 1}}, "losses.a.c=2", {"losses.a": {"weight": 1, "c": 2}}),
        ({"losses.a": {}}, "losses.b={}", {"losses.a": {}, "losses.b": {}}),
        ({"losses": {"a": {}}}, "losses.b={}", {"losses": {"a": {}, "b": {}}}),
        ({"losses": {"a": {}}, "losses.a": {"c": 1}}, "losses.a.c=2", {"losses": {"a": {}}, "losses.a": {"c": 2}}),
        ({"losses.a": {}, "ema": 0}, "losses={b: {}}", {"ema": 0, "losses": {"b": {}}}),
    ],
)
def test_an_assignment_into_an_override_changes_what_it_names_and_nothing_beside_it(override, assignment, expected):
    values = {"stages": [{"override": override}]}
    key, value = assignment.split("=")
    dotted.put(values, f"stages.0.override.{key}", yaml.safe_load(value))
    assert values["stages"][0]["override"] == expected


def test_stages_that_a_file_writes_as_one_are_changed_one_by_one(tmp_path):
    """`&name` and `*name` are one object to PyYAML, and `<<` shares what lies within."""
    path = tmp_path / "r.yaml"
    stage = "{segments: 1, iterations: 1, override: "
    path.write_text(
        "name: r\nstages:\n"
        f"  - {stage}&one {{losses: {{consistency: {{c: 1}}}}}}}}\n"
        f"  - {stage}{{<<: *one, losses.consistency.weight: 0.25}}}}\n"
        f"  - {stage}*one}}\n"
    )
    made = recipe.load(path, ["stages.0.override.losses.consistency.c=2", "stages.2.override.draw.eta=1"])
    losses = [made.at(index).losses["consistency"] for index in range(3)]
    assert losses == [{"c": 2}, {"c": 1, "weight": 0.25}, {"c": 1}]
    assert [made.at(index).draw.eta for index in range(3)] == [0, 0, 1]


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ({}, "losses.score.guidance"),
        ({}, "stages.0.override.losses.score.guidance"),
        ({"losses": {"consistency": {}}}, "stages.0.override.losses.score.guidance"),
    ],
)
def test_a_setting_adds_no_loss(override, key, tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(json.dumps({**LEAST, "stages": [{"segments": 1, "iterations": 1, "override": override}]}))
    with pytest.raises(ValueError, match="there is no loss 'score' to change; name the stage that has it"):
        recipe.load(path, [f"{key}=3"])
    added = key.removesuffix(".guidance")
    made = recipe.load(path, ["draw={visited_share: 1, end: visited}", f"{added}={{guidance: 3}}"])
    assert "score" in made.at(0).losses


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batch: 1\nbatch: 2", "'batch' is given twice"),
        ("lora: {rank: 1, rank: 2}", "'rank' is given twice"),
        ("extends: least.yaml\nlora.rank: 2\nlora: {alpha: 1}", "'lora' takes the place of 'lora.rank' before it"),
        (
            "stages: [{segments: 1, iterations: 1, override: {draw.eta: 1, draw: {end: start}}}]",
            "in stage 1 'draw' takes the place of 'draw.eta' before it",
        ),
    ],
)
def test_what_one_key_would_take_from_another_is_said(text, message, tmp_path):
    (tmp_path / "least.yaml").write_text(json.dumps(LEAST))
    (tmp_path / "r.yaml").write_text(f"name: r\n{text}\n")
    with pytest.raises(ValueError, match=message):
        recipe.load(tmp_path / "r.yaml")


@pytest.mark.parametrize(
    ("assignment", "key"),
    [
        ("lora.alpha=0", "lora.alpha"),
        ("lora.alpha=.inf", "lora.alpha"),
        ("optimiser.betas=[0.9, 1.0]", "optimiser.betas.1"),
        ("stages.0.override.optimiser.betas=[0.9, 1.0]", "optimiser.betas.1"),
        ("optimiser.weight_decay=-1", "optimiser.weight_decay"),
        ("seed=-1", "seed"),
        ("name=../other", "name"),
        ("name=''", "name"),
    ],
)
def test_numbers_that_nothing_can_be_trained_with(assignment, key, tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(json.dumps(LEAST))
    with pytest.raises(ValueError, match=f"recipe key '{key}'"):
        recipe.load(path, [assignment])


def test_a_key_of_the_sampler_can_be_taken_back(tmp_path):
    draw = {"visited_share": 1, "steps": [1], "samplers": ["ddim"]}
    write(tmp_path, a={**LEAST, "sampler": {"one_step": 700}, "draw": draw})
    assert recipe.load(tmp_path / "a.yaml").sampler.model_extra == {"one_step": 700}
    assert recipe.load(tmp_path / "a.yaml", ["sampler.one_step=null"]).sampler.model_extra == {}


def test_a_rate_given_to_a_stage_leaves_the_rest_of_its_optimiser(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(json.dumps({**LEAST, "optimiser": {"betas": [0.5, 0.6], "warmup": 7}}))
    made = recipe.load(path, ["stages.0.override.optimiser.lr=0.01"]).at(0)
    assert (made.optimiser.lr, made.optimiser.betas, made.optimiser.warmup) == (0.01, (0.5, 0.6), 7)


def test_a_value_in_an_override_has_no_keys_below_it(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(json.dumps({**LEAST, "stages": [{"segments": 8, "iterations": 1, "override": {"ema": 0.9}}]}))
    with pytest.raises(ValueError, match="'ema' has no keys below it"):
        recipe.load(path, ["stages.0.override.ema.decay=0.5"])


def test_a_stage_overrides_only_itself():
    stages = [{"segments": 8, "iterations": 1}, {"segments": 1, "iterations": 1, "override": {"draw.end": "start"}}]
    made = recipe.parse({**LEAST, "stages": stages})
    assert [made.at(i).draw.end for i in range(2)] == ["uniform", "start"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bach": 4}, "unknown recipe key 'bach': did you mean 'batch'?"),
        ({"lora": {"rnak": 4}}, "unknown recipe key 'lora.rnak': did you mean 'rank'?"),
        ({"draw": {"end": "middle"}}, "recipe key 'draw.end'"),
        ({"draw": {"points": 41}}, "a solver grid of 41 points does not divide 1000 timesteps; use 40 or 200"),
        ({"stages": [{"segments": 3, "iterations": 1}]}, "3 segments do not divide a solver grid of 40 points"),
        ({"stages": []}, "the recipe has no stages"),
        ({"draw": {"end": "visited"}}, "needs timesteps of samplers: set draw.visited_share in stage 1"),
        ({"lora": {"rank": 0}}, "recipe key 'lora.rank'"),
        ({"batch": "many"}, "recipe key 'batch'"),
        (
            {"stages": [{"segments": 1, "iterations": 1, "override": {"draw.edn": "start"}}]},
            "unknown recipe key 'draw.edn': did you mean 'end'?",
        ),
    ],
)
def test_mistakes_are_one_line_with_the_remedy(change, message):
    with pytest.raises(ValueError, match=r".") as caught:
        recipe.parse({**LEAST, **change})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


PATHS = {"data": {"kind": "paths"}, "draw": {"points": 8}}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"teacher.follow": "previous"}, "stage 2 cannot have a teacher of its own.*set data.kind=prompts"),
        ({"teacher.guidance": [9, 9]}, "stage 2 cannot have a teacher of its own"),
        ({"draw.points": 40}, "8 points, and not the 40 of stage 2: set draw.points of that stage to one that divides"),
    ],
)
def test_paths_are_one_teachers_for_all_stages(override, message):
    stages = [{"segments": 8, "iterations": 1}, {"segments": 1, "iterations": 1, "override": override}]
    with pytest.raises(ValueError, match=message):
        resolve.check(recipe.parse({**LEAST, **PATHS, "stages": stages}))
    stages[1]["override"] = {"draw.points": 4}
    resolve.check(recipe.parse({**LEAST, **PATHS, "stages": stages}))


REGRESSION, ROLLOUT = ({"losses": {name: {}}} for name in ("regression", "rollout"))
OFF_GRID = "in stage 2 paths of 8 points do not pass timestep {}: set draw.end to start"


@pytest.mark.parametrize(
    ("override", "off"),
    [
        (REGRESSION, 0),
        ({**REGRESSION, "draw": {"points": 8, "end": "visited", "visited_share": 0.5}}, 0),
        ({**ROLLOUT, "draw": {"points": 8, "visited_share": 1, "samplers": ["ddim"], "steps": [3]}}, 666),
        ({**REGRESSION, "draw.end": "start"}, None),
        ({**ROLLOUT, "draw": {"points": 8, "visited_share": 1, "samplers": ["ddim"], "steps": [1, 2, 4, 8]}}, None),
    ],
)
def test_what_paths_do_not_pass_is_said_before_they_are_walked(override, off):
    stages = [{"segments": 8, "iterations": 1}, {"segments": 1, "iterations": 1, "override": override}]
    made = recipe.parse({**LEAST, **PATHS, "stages": stages})
    with nullcontext() if off is None else pytest.raises(ValueError, match=OFF_GRID.format(off)):
        resolve.check(made)


@pytest.mark.parametrize(
    ("points", "end", "code", "untrained"),
    [
        *((40, "visited", 0, 974), (40, "start", 0, 974), (8, "visited", 0, None), (8, "start", 0, None)),
        (8, "visited", 1, 874),  # where drawings in 8 steps are, told another number than those in one
    ],
)
def test_a_target_from_where_no_sample_is_is_noticed(points, end, code, untrained):
    """The student's own jump from s, for which nothing but what it learns at other timesteps can be right."""
    draw = {"points": points, "end": end, "visited_share": 1, "samplers": ["ddim"]}
    sampler = {"step_code": code}
    made = recipe.parse({**LEAST, "draw": draw, "sampler": sampler, "stages": [{"segments": 1, "iterations": 1}]})
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        resolve.check(made)
    expected = [f"t = 999 is the student's own jump from {untrained}"] if untrained else []
    assert len(said) == len(expected)
    assert all(words in str(one.message) for words, one in zip(expected, said, strict=True))


@pytest.mark.parametrize(("beside", "noticed"), [("feedback", True), ("score", False)])
def test_it_is_noticed_beside_other_losses_too_but_for_those_that_say_where_jumps_lead(beside, noticed):
    settings = {"feedback": {"judges": {"emoji-a": {"target": 1}}, "watch": {"emoji-b": {}}, "window": 2}, "score": {}}
    draw = {"points": 40, "end": "visited", "visited_share": 1, "samplers": ["ddim"]}
    values = {**LEAST, "draw": draw, "losses": {"consistency": {}, beside: settings[beside]}}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        resolve.check(recipe.parse(values))
    assert ["own jump from" in str(one.message) for one in said] == [True] * noticed


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"draw": {"eta": 0.5}}, "draw.eta changes nothing: no loss draws whole pictures"),
        ({"draw": {"together": True, "visited_share": 0}}, "draw.together changes nothing: no sample has"),
    ],
)
def test_a_setting_that_changes_nothing_is_noticed(change, words):
    with pytest.warns(UserWarning, match=words):
        resolve.check(recipe.parse({**LEAST, **change}))


@pytest.mark.parametrize(
    ("losses", "stages", "message"),
    [
        (
            {"feedback": {"judges": {"emoji-a": {"target": 1}}, "watch": {"emoji-a": {}}}},
            [{}],
            "the judge 'emoji-a' cannot look on while it is pleased",
        ),
        (
            {"feedback": {"judges": {"emoji-a": {"target": 1, "weights": "nowhere"}}}},
            [{}],
            "no folder nowhere: leave weights out",
        ),
        (
            {"score": {"rank": 2}},
            [{}, {"losses.score.rank": 3}],
            "the role 'fake' has rank 2 in one stage and 3 in another: set one",
        ),
    ],
)
def test_what_cannot_be_trained_is_said_before_anything_is_written(losses, stages, message):
    draw = {"visited_share": 1, "samplers": ["ddim"], "steps": [1], "end": "visited"}
    stages = [{"segments": 1, "iterations": 10, "override": override} for override in stages]
    made = recipe.parse({**LEAST, "draw": draw, "losses": losses, "stages": stages})
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        resolve.check(made)


def test_a_missing_name_is_named():
    with pytest.raises(ValueError, match="the recipe lacks 'name'"):
        recipe.parse({"stages": LEAST["stages"]})


@pytest.mark.parametrize("assignment", ["batch", "stages.7.iterations=1", "name.first=x", "lora={rank: 1, rank: 2}"])
def test_assignments_that_lead_nowhere(assignment, tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(json.dumps(LEAST))
    with pytest.raises(ValueError, match=r"key=value|is no index|has no keys below|is not YAML"):
        recipe.load(path, [assignment])


def write(folder, **files):
    for name, values in files.items():
        (folder / f"{name}.yaml").write_text(json.dumps(values))
    return folder


def test_a_recipe_says_only_what_differs_from_another(tmp_path):
    own = {"losses.consistency.c": 0.5, "stages.0.iterations": 3}
    write(tmp_path, a={**LEAST, "batch": 4}, b={"extends": "a.yaml", "name": "b", **own})
    write(tmp_path, c={"extends": "b.yaml", "name": "c", "batch": 2})
    made = recipe.load(tmp_path / "c.yaml", ["stages.0.iterations=5"])
    assert (made.name, made.batch, made.stages[0].iterations) == ("c", 2, 5)
    assert made.losses == {"consistency": {"c": 0.5}}


def test_what_cannot_be_extended_is_told(tmp_path):
    write(tmp_path, a={"extends": "b.yaml"}, b={"extends": "a.yaml"}, c={"extends": "d.yaml"}, e={"extends": 1})
    for name, message in {"a": "extends itself", "c": "c.yaml extends it", "e": "not 1"}.items():
        with pytest.raises(ValueError, match=message):
            recipe.load(tmp_path / f"{name}.yaml")


def test_guidance_0_means_off_and_is_noticed():
    with pytest.warns(UserWarning, match="guidance 0 means off: taken as 1"):
        made = recipe.parse({**LEAST, "teacher": {"guidance": [0, 0]}})
    assert made.teacher.guidance == (1.0, 1.0)


def test_what_is_published_names_no_folder_of_ours(tmp_path):
    mine = {"data": {"kind": "paths", "prompts": f"{tmp_path}/my.txt"}, "base": f"{tmp_path}/my-sd15"}
    values = resolve.published(recipe.parse({**LEAST, **mine}), ("to_q",))
    assert str(tmp_path) not in json.dumps(values)
    assert (values["base"], values["data"]["prompts"], values["lora"]["targets"]) == ("my-sd15", "my.txt", ["to_q"])
