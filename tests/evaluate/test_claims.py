"""Claims about the order of methods can hold, fail, and stay open."""

from __future__ import annotations

import pytest

from hypersd.evaluate import claims
from hypersd.evaluate.claims import Claim, against_rivals, verdict
from hypersd.evaluate.report import Row, Stat


def stat(*values: float) -> Stat:
    return Stat(tuple(values))


@pytest.mark.parametrize(
    ("measure", "better", "worse", "expected"),
    [
        ("alignment", (0.9, 0.92), (0.8, 0.85), "holds"),
        ("alignment", (0.9, 0.84), (0.8, 0.85), "open"),
        ("alignment", (0.7, 0.72), (0.8, 0.85), "fails"),
        ("alignment", (0.9,), (0.8,), "holds (one seed)"),
        ("alignment", (0.8,), (0.8,), "fails"),
        ("fd_teacher", (5.0, 6.0), (7.0, 8.0), "holds"),
        ("fd_teacher", (7.0, 8.0), (5.0, 6.0), "fails"),
        ("path", (0.2, 0.5), (0.4, 0.6), "open"),
    ],
)
def test_a_claim_is_as_good_as_its_seeds(measure, better, worse, expected):
    assert verdict(Claim("", "a", "b", 1, measure), stat(*better), stat(*worse)) == expected


def test_what_is_to_be_kept_may_fall_by_so_much():
    claim = Claim("", "a", "b", 1, "alignment", slack=0.01)
    assert verdict(claim, stat(0.895), stat(0.9)) == "holds (one seed)"
    assert verdict(claim, stat(0.88), stat(0.9)) == "fails"


def row(name: str, steps: int, alignment: float, fd: float) -> Row:
    return Row(name, steps, steps, "ddim", 1.0, {"alignment": stat(alignment), "fd_teacher": stat(fd)})


METHODS = {
    ("hyper", 2): row("hyper", 2, 0.95, 9.0),
    ("lcm", 2): row("lcm", 2, 0.97, 30.0),
    ("tcd", 2): row("tcd", 2, 0.9, 8.0),
    ("tscd", 2): row("tscd", 2, 0.93, 7.0),
}


def test_the_strongest_rival_is_the_best_of_them_by_that_measure():
    found = {claim.measure: claim.worse for claim in against_rivals(METHODS)}
    assert found == {"alignment": "lcm", "fd_teacher": "tcd"}


def test_ours_is_seen_where_it_is_behind_too():
    """Cleaner pictures, or nearer to real ones, than of who is nearest to the teacher."""

    def seen(name, quality, real):
        return Row(name, 1, 1, "ddim", 1.0, {"quality": stat(quality), "fd_real": stat(real)})

    text = claims.rivals_table({("emoji", 1): seen("emoji", 9.0, 157.0), ("dmd2", 1): seen("dmd2", 8.0, 133.0)})
    assert "| emoji | 1 | – | – | 9; dmd2 8: holds (one seed) | – | 157; dmd2 133: fails | – |" in text


def test_only_what_was_run_is_spoken_of():
    text = claims.table(METHODS)
    assert "| TSCD is above TCD | 2 | fd_teacher | tscd 7 | tcd 8 | holds (one seed) |" in text
    assert "feedback" not in text
    assert "quality" not in text
    text = claims.rivals_table(METHODS)
    assert "| hyper | 2 | 0.95; lcm 0.97: fails | – | – | 9; tcd 8: fails | – | – |" in text
    assert "emoji" not in text
    assert claims.table({}) == claims.rivals_table({}) == ""


def test_each_method_is_seen_with_its_own_sampler():
    runs = [{"recipe": {"name": "tcd", "sampler": {"name": "tcd"}}}]
    rows = {("tcd", 2, sampler, 1.0): row("tcd", 2, 0.9, fd) for sampler, fd in (("ddim", 1.0), ("tcd", 2.0))}
    found = {name: methods.mean("fd_teacher") for (name, _), methods in claims.by_name(runs, rows).items()}
    assert found == {"tcd": 2.0, "tcd (ddim)": 1.0}


def test_a_rival_is_as_strong_as_its_best_sampler_makes_it():
    methods = {**METHODS, ("tcd (ddim)", 2): row("tcd", 2, 0.9, 6.0), ("tscd (ddim)", 2): row("tscd", 2, 0.8, 5.0)}
    assert {claim.measure: claim.worse for claim in against_rivals(methods)}["fd_teacher"] == "tcd (ddim)"
    text = claims.table(methods)
    assert "| TSCD is above TCD | 2 | fd_teacher | tscd 7 | tcd 8 | holds (one seed) |" in text
    assert "| TSCD is above TCD | 2 | alignment | tscd (ddim) 0.8 | tcd (ddim) 0.9 | fails |" in text
    assert not any(claim.better.endswith(claims.DDIM) for claim in against_rivals(methods))  # ours draw as they say


def test_one_step_begun_lower_is_a_rival_too():
    runs = [{"recipe": {"name": name, "sampler": {"name": "tcd"}}} for name in ("tcd", "hyper")]
    seen = {("tcd", "tcd"): 0.7, ("tcd", "tcd from 800"): 0.9, ("hyper", "tcd"): 0.8}
    own = claims.by_name(runs, {(name, 1, sampler, 1.0): row(name, 1, a, 9.0) for (name, sampler), a in seen.items()})
    assert {name: row.mean("alignment") for (name, _), row in own.items()} == {
        "tcd": 0.7,
        "tcd from 800": 0.9,
        "hyper": 0.8,
    }
    assert {claim.worse for claim in against_rivals(own) if claim.measure == "alignment"} == {"tcd from 800"}
