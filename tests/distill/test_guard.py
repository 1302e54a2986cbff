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
            guard.saw(1.0, {"a": a + 0.01 * index, "b": b + 0.01 * index})
    return guard


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_term_that_is_no_number_is_named(value):
    assert Guard().wrong({"score": 1.0, "adversarial": value}) == f"the loss 'adversarial' became {value}"


def test_an_explosion_is_measured_by_how_the_stage_began():
    guard = Guard()
    for _ in range(20):
        assert guard.wrong({"rollout": 1e9}) == ""  # not yet known what is usual
        guard.saw(0.5, {})
    assert guard.wrong({"rollout": 4e3, "score": 1.0}) == ""
    assert "the loss 'rollout' grew to 6e+03, from 0.5" in guard.wrong({"rollout": 6e3, "score": 1.0})


def test_an_opponent_explodes_by_its_own_measure():
    """The sum of the student's terms may be a million times as large."""
    guard = Guard()
    for _ in range(20):
        assert guard.wrong_opponent("score, opponent", 0.5) == ""
    assert guard.wrong_opponent("score, opponent", 4e3) == ""
    assert "the loss 'score, opponent' grew to 6e+03, from 0.5" in guard.wrong_opponent("score, opponent", 6e3)
    again = Guard()
    again.replay([{"loss": 1.0, "terms": {"score, opponent": 0.5}}] * 30)
    assert again.wrong_opponent("score, opponent", 6e3) == guard.wrong_opponent("score, opponent", 6e3)


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


def test_nobody_watching_is_no_window():
    assert not Guard().turned
    assert not after((0.1, 0.5), watched=Watched(("a",), (), 4, False)).turned


def test_a_resumed_stage_has_seen_what_it_had():
    whole, again = after((0.1, 0.5), (0.3, 0.6)), Guard(WATCHED)
    again.replay([{"loss": 1.0, "scores": scores} for scores in whole.scores])
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
