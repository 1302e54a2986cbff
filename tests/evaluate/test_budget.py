"""A budget: what is counted, what an update is expected to cost, what is scaled."""

from __future__ import annotations

import pytest

from hypersd import recipe
from hypersd.distill.train import train
from hypersd.distill.watch import Silent
from hypersd.evaluate import budget
from hypersd.evaluate.budget import Ledger, at_budget, cost
from hypersd.evaluate.passes import Counter
from tests.evaluate.test_methods import TOY

OPPONENTS = {
    "draw": {"visited_share": 1.0, "samplers": ["ddim"], "steps": [2], "end": "visited"},
    "losses": {"score": {"updates": 3}, "adversarial": {"updates": 2}},
    "stages": [{"segments": 1, "iterations": 4}],
}


HELD = {
    "data": {"kind": "paths", "pool": 12, "held": 4},
    "draw": {"points": 8, "visited_share": 1.0, "samplers": ["ddim"], "steps": [2], "end": "visited"},
    "losses": {"rollout": {}},
}
PAIRED = {"losses": {"consistency": {}, "adversarial": {"of": "jump", "real": "target", "pair": True}}}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, [8 * (1 + 1 + 3)] * 2),  # the teacher, the target, and the student with its gradient
        ({"teacher": {"guidance": [5, 5]}}, [8 * (2 + 1 + 3)] * 2),  # guidance is two passes
        ({"teacher": {"guidance": [1, 1], "substeps": 4}}, [8 * (4 + 1 + 3)] * 2),
        # Two jumps, both scores, D's view; then the fake score three times, and D's two views twice, where nothing
        # flows back through the network.
        (OPPONENTS, [8 * (2 * 3 + 1 + 1 + 3 + 3 * 3 + 2 * 2)]),
        # The student, the target, the teacher; D's view of where the jump lands, and of where it began; then the same
        # jump for the heads: two views, and that of the beginning.
        (PAIRED, [8 * (3 + 1 + 1 + 3 + 1 + 2 + 1)] * 2),
        ({"student": "full"}, [8 * (1 + 1 + 3)] * 2),
        (HELD, [8 * (2 * 3)] * 2),  # rollouts of two jumps; what is held out is looked at in nobody's budget
    ],
)
def test_every_pass_of_an_update_is_counted(tmp_path, changed, expected):
    made = recipe.parse({**TOY, **changed})
    assert cost(made, tmp_path, Silent()) == expected
    assert cost(recipe.parse({**TOY, **changed, "batch": 4}), tmp_path, Silent()) == [each // 2 for each in expected]


DRAW = {"points": 8, "visited_share": 1.0, "samplers": ["ddim"], "steps": [8], "end": "visited"}
TOGETHER = {
    "data": {"kind": "paths", "pool": 12},
    "draw": DRAW,
    "losses": {"rollout": {}},
    "stages": [
        {"segments": 4, "iterations": 10, "override": {"losses": {"consistency": {}}, "draw.steps": [2, 8]}},
        {"segments": 1, "iterations": 10, "override": {"draw.together": True, "draw.steps": [1, 1, 2, 8]}},
        {"segments": 1, "iterations": 10, "override": {"draw": {**DRAW, "steps": [1, 4]}}},
    ],
    "sampler": {"name": "ddim", "one_step": 700, "steps": [1, 2, 4, 8]},
}
"""Single jumps, some of which have a target to jump to as well; then whole drawings: of 3 jumps in the mean, all in as
many in an update, and of 2.5, each in its own."""


def test_what_stands_on_a_lora_that_begins_lower_has_its_price(tmp_path):
    draw = {"visited_share": 1.0, "samplers": ["ddim"], "steps": [1, 2], "end": "visited"}
    values = {**TOY, "draw": draw, "sampler": {"one_step": 700}, "stages": [{"segments": 1, "iterations": 1}]}
    below = train(recipe.parse(values), tmp_path / "below")
    made = recipe.parse({**values, "lora": {**TOY["lora"], "beneath": str(below)}})
    assert cost(made, tmp_path, Silent()) == cost(recipe.parse(values), tmp_path, Silent())


def test_an_update_is_expected_to_cost_the_mean_of_what_it_may_draw(tmp_path):
    made = recipe.parse({**TOY, **TOGETHER})
    prices = cost(made, tmp_path, Silent())
    assert prices == [8 * (3 + 1), 8 * 3 * 3, 8 * 3 * 2.5]
    whole = at_budget(made, prices, 3280)
    assert [stage.iterations for stage in whole.stages] == [20, 20, 20]
    budget.link(tmp_path, tmp_path / "run")
    with Counter().counting() as counter:
        train(whole, tmp_path / "run", watch=(ledger := Ledger.of(tmp_path / "run", counter, Silent())))
    assert ledger.passes(whole, prices) == pytest.approx(3280, rel=0.15)
    assert {update.passes for update in ledger.made.values() if update.stage == 1} == {8 * 3 * n for n in (1, 2, 8)}


def test_what_is_looked_at_on_the_way_is_in_nobodys_budget():
    made = recipe.parse({**TOY, "data": {"kind": "prompts", "held": 4}, "sample_prompts": ["a cat"]})
    assert budget.unlooked(made) == {**made.model_dump(mode="json"), "data": {"kind": "prompts"}, "sample_prompts": []}


def test_a_ledger_goes_on_after_a_kill(tmp_path):
    """What was made again counts once, what an older program made at its stage's price; half a line is none."""
    made = recipe.parse({**TOY, "stages": [{"segments": 1, "iterations": 4}]})

    def updates(first, passes, last):
        counter = Counter()
        ledger = Ledger.of(tmp_path, counter, Silent())
        ledger.stage(0, made.stages[0], first)
        for iteration in range(first, last):
            counter.evaluations += passes
            ledger.update(iteration + 1, 0.0, 0.0)
        return ledger

    updates(1, 100, 3)
    with open(tmp_path / "passes.jsonl", "a") as file:
        file.write('{"stage": 0, "itera')
    ledger = updates(2, 10, 4)
    assert ledger.passes(made, [7.0]) == 7 + 100 + 10 + 10


def test_all_stages_are_stretched_by_one_factor():
    made = at_budget(recipe.parse(TOY), [10, 20], 5000)  # as written it costs 500
    assert [stage.iterations for stage in made.stages] == [300, 100]
    with pytest.raises(ValueError, match="a budget of 29 is below one update of toy's stages, 30"):
        at_budget(recipe.parse(TOY), [10, 20], 29)


def test_pools_are_shared_by_all_runs(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "pool-1.safetensors").write_bytes(b"latents")
    (tmp_path / "a" / "lora.safetensors").write_bytes(b"not this")
    budget.link(tmp_path / "a", tmp_path / "b")
    assert [file.name for file in (tmp_path / "b").iterdir()] == ["pool-1.safetensors"]
