import json
from dataclasses import replace

import pytest

from hypersd.evaluate import report
from hypersd.evaluate.report import Report, Row, Stat
from hypersd.evaluate.rows import with_ratios
from hypersd.evaluate.yardsticks import yardsticks


def rows():
    def values(**given):
        return {name: Stat(value if isinstance(value, tuple) else (value,)) for name, value in given.items()}

    teacher = values(alignment=(1.0, 0.99, 1.01), recall_at_1=0.5, fd_teacher=0.1, seconds=0.5)
    hard = values(alignment=0.9, fd_teacher=4.0)
    student = values(alignment=(0.96, 0.97, 0.98), recall_at_1=0.5, fd_teacher=2.0, fd_ratio=0.4)
    return (
        Row("teacher", 25, 50, "ddim", 5.0, teacher),
        Row("hardness", 4, 8, "ddim", 5.0, hard),
        Row("distilled", 4, 4, "ddim", 1.0, student),
        Row("distilled", 4, 4, "tcd", 1.0, student),
    )


@pytest.fixture
def found():
    ends = {"floor of fd_teacher": 0.4, "R@1 of real pictures": 0.8}
    paths = {"LoRA": {"k=1": Stat((0.5, 0.7)), "k=1 segment 0": Stat((0.5, 0.7))}}
    about = {"command": "hypersd evaluate", "pictures": 200, "seeds": 3, "quick": True, "split": "develop"}
    about |= {
        "sha256": {"base": "abcdef0123456789"},
        "drawing_seconds": 750.0,
        "wall_seconds": 12.5,
        "date": "2026-01-01",
    }
    choice = {"4 steps": {"base, 4 steps, ddim": 5.0, "base, 4 steps, unipc": 4.0}}
    return Report(rows(), tuple(yardsticks(rows(), ends)), ends, paths, choice, about)


def test_a_report_comes_back_from_json_as_it_was_to_six_digits(found, tmp_path):
    found.write(tmp_path / "a.json")
    again = report.read(tmp_path / "a.json")
    assert (again.rows, again.paths, again.about) == (found.rows, found.paths, found.about)
    assert [yardstick.value for yardstick in again.yardsticks] == pytest.approx(
        [yardstick.value for yardstick in found.yardsticks], rel=1e-5
    )
    assert report.markdown(again, "a") == report.markdown(found, "a")
    again.write(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_a_number_is_a_list_in_the_file_and_an_older_file_is_read_as_well(found, tmp_path):
    found.write(tmp_path / "new.json")
    held = json.loads((tmp_path / "new.json").read_text())
    values = held["rows"][0]["values"]
    assert values["alignment"] == [1.0, 0.99, 1.01]
    held["rows"][0]["values"] = {name: {"values": each} for name, each in values.items()}
    (tmp_path / "old.json").write_text(json.dumps(held))
    assert report.read(tmp_path / "old.json").rows == report.read(tmp_path / "new.json").rows


def test_cells_have_mean_and_spread(found):
    titles, cells = report.lines(found)
    at = titles.index("alignment")
    assert cells[0][at] == "1.000 ± 0.010"
    assert cells[1][at] == "0.900"
    assert cells[1][titles.index("R@1 %")] == "–"
    assert cells[0][titles.index("R@1 %")] == "50.0"
    assert "LPIPS over seeds" not in titles


def test_the_page_keeps_what_people_wrote_around_the_tables(found, tmp_path):
    folder, page = tmp_path / "results", tmp_path / "results.md"
    found.write(folder / "emoji.json")
    page.write_text("# Results\n\nBefore.\n")
    report.write_page(folder, page)
    page.write_text(page.read_text() + "\nAfter.\n")
    once = page.read_text()
    report.write_page(folder, page)
    assert page.read_text() == once
    assert once.startswith("# Results\n\nBefore.\n")
    assert once.endswith("After.\n")
    assert "### emoji" in once
    assert "A quick look" in once
    assert "; 12.5 min of drawing; " in once
    assert "| LoRA | 0.600 ± 0.141 |" in once
    assert "| 4 steps | base, 4 steps, unipc |" in once


def test_yardsticks_speak_of_the_reference_sampler_only(found):
    by = {y.claim: y for y in found.yardsticks}
    assert len(by) == len(found.yardsticks) == 4
    assert not by["alignment at 4 steps"].holds  # .97
    assert not by["FD to teacher at 4 steps, over the best undistilled"].holds
    hard = by["the base's FD at 4 guided steps, over a second 25-step set's"]
    assert hard.value == pytest.approx(4.0 / (0.1 + 0.4))
    assert hard.holds
    real = by["the base's R@1, over real pictures'"]
    assert real.value == pytest.approx(0.5 / 0.8)
    assert real.holds


def asked(steps, teachers, **mine):
    """What is asked of a LoRA in so many steps, beside such a teacher."""

    def row(role, n, values):
        return Row(role, n, n, "ddim", 1.0, {name: Stat((value,)) for name, value in values.items()})

    found = yardsticks([row("teacher", 25, teachers), row("distilled", steps, mine)], {})
    return {y.claim: (y.value, y.bound, y.holds) for y in found}


def test_what_is_asked_beside_the_teacher():
    teacher = {"quality": 8.0, "fd_real": 100.0, "diversity": 0.02}
    assert asked(1, teacher, alignment=0.97, quality=8.0, fd_real=111.0, diversity=0.017) == {
        "alignment at 1 step": (0.97, 0.97, True),
        "quality at 1 step, beside the teacher's": (8.0, 8.0, True),
        "FD to real at 1 step, over the teacher's": (1.11, 1.1, False),
        "LPIPS over seeds at 1 step, over the teacher's": (pytest.approx(0.85), 0.9, False),
    }
    assert asked(2, teacher, alignment=0.979, quality=7.9, fd_real=200.0, diversity=0.019) == {
        "alignment at 2 steps": (0.979, 0.98, False),
        "quality at 2 steps, beside the teacher's": (7.9, 8.0, False),
        "LPIPS over seeds at 2 steps, over the teacher's": (pytest.approx(0.95), 0.9, True),
    }
    assert asked(8, {"quality": 8.0}, quality=9.0, diversity=0.01).keys() == {
        "quality at 8 steps, beside the teacher's"
    }
    assert "LPIPS" not in " ".join(asked(1, teacher, quality=9.0))  # not compared


def test_a_report_is_held_against_the_yardsticks_of_today(found, tmp_path):
    folder, page = tmp_path / "results", tmp_path / "results.md"
    loose = [replace(y, bound=0.0, at_least=True) for y in found.yardsticks]
    replace(found, yardsticks=tuple(loose)).write(folder / "emoji.json")
    again = report.read(folder / "emoji.json")
    assert [(y.claim, y.bound) for y in again.yardsticks] == [(y.claim, y.bound) for y in found.yardsticks]
    report.write_page(folder, page)
    assert json.loads((folder / "emoji.json").read_text())["yardsticks"][-1]["bound"] == pytest.approx(1 / 3, rel=1e-5)


def test_what_is_no_report_is_refused_in_one_line(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"rows": []}))
    with pytest.raises(ValueError, match="not a report"):
        report.read(tmp_path / "a.json")


def test_tables_for_the_terminal(found):
    assert report.table(found).row_count == 4
    assert report.verdicts(found).row_count == 4
    assert report.table(replace(found, about={})).title is None


@pytest.mark.parametrize(("rival", "ratio"), [((4.0, 8.0), (0.5, 0.125)), ((4.0, -0.1), None)])
def test_a_ratio_needs_a_rival_above_the_floor(rival, ratio):
    best = Row("undistilled, equal steps", 4, 8, "ddim", 5.0, {"fd_teacher": Stat(rival)})
    mine = Row("distilled", 4, 4, "ddim", 1.0, {"fd_teacher": Stat((2.0, 1.0))})
    _, found = with_ratios([best, mine])
    assert found.values.get("fd_ratio") == (ratio and Stat(ratio))


def test_a_single_step_is_judged_by_its_one_row_whatever_the_sampler():
    """And not by the row that is begun where it was not trained to."""
    ends = {"R@1 of real pictures": 0.8, "floor of fd_teacher": 0.4}
    of_lora = [replace(row, steps=1) for row in rows() if row.role == "distilled"][:1]
    others = [row for row in rows() if row.role != "distilled"]

    def told(sampler):
        found = yardsticks([*others, *(replace(row, sampler=sampler) for row in of_lora)], ends)
        return [y.claim for y in found if "1 step" in y.claim]

    assert told("tcd") == told("ddim") == ["alignment at 1 step", "FD to teacher at 1 step, over the best undistilled"]
    assert told("tcd from 800") == []
