"""When a run must stop, or say something: judged on numbers alone."""

from __future__ import annotations

import math

import pytest

from hypersd.distill.guard import Guard, Watched

WATCHED = Watched(("a",), ("b",), 4, False)


def after(*windows, watched=WATCHED):
    """A guard that has seen windows of (a, b), with a little spread."""
    guard = Guard(watched)
    for a, b in windows:
        for index in range(4):
            assert guard.wrong({"feedback": 1.0}) == ""
            guard.saw(1.0, {"a": a + 0.01 * index, "b": b + 0.01 * index})
    return guard


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_term_that_is_no_number_is_named(value):
    assert Guard().wrong({"score": 1.0, "adversarial": value}) == f"the loss 'adversarial' became {value}"


def test_an_explosion_is_measured_by_how_the_stage_began():
    guard = begun(rollout=0.5, score=0.01)
    assert guard.wrong({"rollout": 4e3, "score": 0.01}) == ""
    assert "the loss 'rollout' grew to 6e+03, from 0.5" in guard.wrong({"rollout": 6e3, "score": 0.01})


def begun(**terms):
    """A guard of a stage that has settled."""
    guard = Guard()
    for _ in range(20):
        assert guard.wrong(terms) == ""  # not yet known what is usual
        guard.saw(sum(terms.values()), {})
    return guard


def test_no_term_hides_behind_a_larger_one():
    """Nor behind its own beginning of nothing; but one whose weight grows from nothing may."""
    guard = begun(mse=100.0, score=0.1, hinge=0.0)
    assert guard.wrong({"mse": 100.0, "score": 9e3, "hinge": 9e5}) == ""
    assert "'score' grew to 1.1e+04, from 0.1" in guard.wrong({"mse": 100.0, "score": 1.1e4, "hinge": 0.0})
    assert "'hinge' grew to 1.1e+06, from 0" in guard.wrong({"mse": 100.0, "score": 0.1, "hinge": 1.1e6})
    assert begun(rollout=3e-4, hinge=0.0).wrong({"rollout": 3e-4, "hinge": 5.0}) == ""
    assert begun(fading=2e-5).wrong({"fading": 0.5}) == ""
    assert "'fading' grew to 11, from 2e-05" in begun(fading=2e-5).wrong({"fading": 11.0})
    assert "'feedback' grew to -2e+04, from 0" in begun(feedback=0.0).wrong({"feedback": -2e4})


def test_an_opponent_explodes_by_its_own_measure():
    """The sum of the student's terms may be a million times as large."""
    guard = Guard()
    for _ in range(20):
        assert guard.grown("score, opponent", 0.5) == ""
    assert guard.grown("score, opponent", 4e3) == ""
    assert "the loss 'score, opponent' grew to 6e+03, from 0.5" in guard.grown("score, opponent", 6e3)


def test_a_resumed_stage_knows_what_its_terms_began_with():
    terms = {"score": 0.5, "score, opponent": 0.2}
    again = Guard()
    again.replay([{"loss": 0.5, "terms": terms}] * 30)
    assert "'score' grew to 6e+03, from 0.5" in again.wrong({"score": 6e3})
    assert "'score, opponent' grew to 6e+03, from 0.2" in again.grown("score, opponent", 6e3)
    alone = Guard()
    alone.replay([{"loss": 0.5}] * 30, only="consistency")
    assert alone.wrong({"consistency": 6e3}) == "the loss 'consistency' grew to 6e+03, from 0.5 as the stage began"


def test_one_who_rises_while_another_falls_is_noticed():
    assert after((0.1, 0.5), (0.3, 0.6)).fooled() == ""
    assert after((0.1, 0.5), (0.3, 0.6), (0.5, 0.4)).fooled().startswith("b fell from 0.615 to 0.415 while a rose")


@pytest.mark.parametrize("last", [(0.1, 0.4), (0.1, 0.6), (0.5, 0.605)])
def test_both_falling_both_rising_and_chance_are_not(last):
    assert after((0.2, 0.5), (0.3, 0.6), last).fooled() == ""


def test_the_best_window_is_the_held_out_judges():
    assert after((0.1, 0.5), (0.3, 0.6), (0.5, 0.4)).best() == 1
    guard = after((0.1, 0.5))
    assert guard.turned
    guard.saw(1.0, {"a": 0.0, "b": 0.0})
    assert not guard.turned


def scored(*windows, held_out=("b",)):
    """A guard that has seen windows of {judge: (mean, spread)}."""
    guard = Guard(Watched(("a",), held_out, 4, False))
    for window in windows:
        for sign in (-1, 1, -1, 1):
            guard.saw(1.0, {name: mean + sign * spread for name, (mean, spread) in window.items()})
    return guard


def test_the_best_window_is_the_one_of_the_highest_mean_however_sure_a_lower_one_is():
    fell = scored({"a": (0, 0.1), "b": (0, 0.1)}, {"a": (1, 0.1), "b": (2, 0.3)}, {"a": (2, 0.1), "b": (1, 0.01)})
    assert fell.best() == 1
    assert fell.told.startswith("b fell from 2 to 1 while a rose")


def test_one_who_looks_on_and_rises_does_not_hide_another_who_falls():
    """Quality that is bought with alignment: what is watched for."""
    before = {"a": (1, 0.1), "b": (0.6, 0.01), "c": (8, 0.1)}
    after = {"a": (2, 0.1), "b": (0.5, 0.01), "c": (10, 0.1)}
    guard = scored(before, after, held_out=("b", "c"))
    assert guard.best() == 1
    assert guard.told.startswith("b fell from 0.6 to 0.5 while a rose")


def test_among_many_windows_the_best_is_above_by_chance():
    """Three standard errors are much for the best of two, and usual for the best of a hundred."""
    usual = [{"a": (0, 0.1), "b": (0, 0.1)}]
    lucky, last = {"a": (0, 0.1), "b": (0.1, 0.1)}, {"a": (1, 0.1), "b": (-0.12, 0.1)}
    assert "b fell" in scored(lucky, last).told
    assert not scored(*usual * 98, lucky, last).told


def test_nobody_watching_is_no_window():
    assert not Guard().turned
    assert not after((0.1, 0.5), watched=Watched(("a",), (), 4, False)).turned


def test_a_resumed_stage_has_seen_what_it_had():
    whole, again = after((0.1, 0.5), (0.3, 0.6)), Guard(WATCHED)
    again.replay([{"loss": 1.0, "scores": scores} for scores in whole.scores], only="feedback")
    assert again == whole


def after_tests(*pairs):
    guard = Guard()
    for held, trained in pairs:
        guard.tested({"held": {"rollout": held}, "trained": {"rollout": trained}})
    return guard.by_heart()


def test_what_is_learnt_by_heart_is_said_where_held_out_samples_are_missed_farther():
    said = after_tests((1.3, 1.0), (1.5, 1.1), (1.4, 0.9))
    assert said == "samples that were held out are missed by 1.4, others by 1: they are learnt by heart"
    assert after_tests((9.0, 1.0), *[(1.0, 1.0), (1.01, 1.0)] * 4) == ""  # what counts is how it stands at last


@pytest.mark.parametrize("pairs", [[(1.3, 1.0), (1.4, 1.0)], [(1.05, 1.0)] * 4, [(3.0, 1.0), (0.9, 1.5), (1.0, 1.1)]])
def test_too_few_tests_little_and_chance_are_not(pairs):
    assert after_tests(*pairs) == ""


def test_a_resumed_stage_knows_its_tests():
    guard = Guard()
    guard.replay([{"loss": 1.0}, *[{"loss": 1.0, "held": {"rollout": 1.4}, "trained": {"rollout": 1.0}}] * 3])
    assert guard.by_heart()
