"""Segments, for every k and both solver grids: where t, s and end may be, and how often."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from hypersd.diffusion.grids import solver_grid, strided, trailing
from hypersd.diffusion.segments import NOWHERE, Segments, next_on

KS = (1, 2, 4, 8)
EVERY_T = torch.arange(1000)
VISITED = [grid(steps) for grid in (trailing, strided) for steps in range(1, 9)]

every_k = pytest.mark.parametrize("k", KS)
every_grid = pytest.mark.parametrize("points", [40, 200])


def midpoints(count: int) -> torch.Tensor:
    """`count` draws spread evenly over [0, 1)."""
    return (torch.arange(count) + 0.5) / count


@every_k
@every_grid
def test_segments_partition_the_grid(k, points):
    segments = Segments(k, points)
    members = Counter(segments.start(segments.grid).tolist())
    assert members == {j * 1000 // k - 1: points // k for j in range(k)}


@every_k
@every_grid
def test_every_timestep_lies_in_its_segment(k, points):
    segments = Segments(k, points)
    start, s = segments.start(EVERY_T), segments.previous(EVERY_T)
    boundaries = torch.tensor([-1, *solver_grid(k)[:-1]])
    assert start.tolist() == [int(boundaries[boundaries < t].max()) for t in range(1000)]
    assert (start <= s).all()
    assert (s < EVERY_T).all()
    assert (EVERY_T - start <= 1000 // k).all()
    assert set(s.tolist()) == {-1, *segments.grid[:-1].tolist()}
    assert (EVERY_T - s <= 1000 // points).all()


@every_k
@every_grid
def test_uniform_end_takes_every_integer_equally_often(k, points):
    segments, each = Segments(k, points), 3
    starts, lasts = segments.start(segments.grid).tolist(), segments.previous(segments.grid).tolist()
    counts = [last - start + 1 for start, last in zip(starts, lasts, strict=True)]
    t = torch.cat([torch.full((each * n,), t) for t, n in zip(segments.grid.tolist(), counts, strict=True)])
    u = torch.cat([midpoints(each * n) for n in counts])
    ends = segments.end(t, u, "uniform")
    every_end = [torch.arange(start, last + 1) for start, last in zip(starts, lasts, strict=True)]
    assert torch.equal(ends, torch.cat(every_end).repeat_interleave(each))


@every_k
@every_grid
def test_the_outermost_draws_reach_both_ends_and_no_further(k, points):
    segments = Segments(k, points)
    zero, last = torch.zeros(1000), torch.full((1000,), 1 - 2**-24)  # the largest float32 below 1
    assert torch.equal(segments.end(EVERY_T, zero, "uniform"), segments.start(EVERY_T))
    assert torch.equal(segments.end(EVERY_T, last, "uniform"), segments.previous(EVERY_T))


@every_k
@every_grid
@pytest.mark.parametrize("where", ["uniform", "start", "mixture"])
def test_at_the_first_point_the_teacher_arrives_at_the_end(k, points, where):
    """s == end == start, so that the target is the teacher's step itself."""
    segments = Segments(k, points)
    first = segments.grid[:: points // k]
    for u in midpoints(7):
        end = segments.end(first, u.expand(k), where)
        assert torch.equal(end, segments.start(first))
        assert torch.equal(end, segments.previous(first))


def test_the_formula_of_the_paper_would_leave_its_segments():
    """Why segments live on indices: t_b = t // seg · seg lies above s for 7, 3, 1, 0 of 40 points."""
    grid = torch.tensor(solver_grid(40))[1:]  # from the first one t goes to −1, which the paper calls 0
    outside = [int((grid // (1000 // k) * (1000 // k) > grid - 25).sum()) for k in (8, 4, 2, 1)]
    assert outside == [7, 3, 1, 0]


@every_k
@every_grid
def test_inference_timesteps_land_in_the_right_segment(k, points):
    """Those of every sampler and step count, most of them off the grid."""
    segments = Segments(k, points)
    boundaries, stops = [-1, *solver_grid(k)], [-1, *solver_grid(points)]
    for t in {t for timesteps in VISITED for t in timesteps}:
        at = torch.tensor([t, t])
        (segment,) = [j for j in range(k) if boundaries[j] < t <= boundaries[j + 1]]
        below = max(point for point in stops if point < t)
        assert segments.start(at).tolist() == [boundaries[segment]] * 2
        assert segments.previous(at).tolist() == [below] * 2
        extremes = segments.end(at, torch.tensor([0, 1 - 2**-24]), "uniform")
        assert extremes.tolist() == [boundaries[segment], below]


@pytest.mark.parametrize(
    ("t", "k", "points", "start", "s"),
    [(759, 4, 40, 749, 749), (759, 4, 200, 749, 754), (666, 2, 40, 499, 649), (332, 8, 40, 249, 324)],
)
def test_known_timesteps(t, k, points, start, s):
    segments, at = Segments(k, points), torch.tensor([t])
    assert (segments.start(at).item(), segments.previous(at).item()) == (start, s)


def test_start_and_mixture():
    segments, count = Segments(2), 1000
    t = torch.full((count,), 999)
    assert segments.end(t, midpoints(count), "start").unique().tolist() == [499]
    mixed = Counter(segments.end(t, midpoints(count), "mixture", 0.524).tolist())
    # 524 at the start, and the other 476 draws on the 476 integers of [499, 974].
    assert mixed == {499: 525, **dict.fromkeys(range(500, 975), 1)}
    only = segments.end(t, midpoints(count), "mixture", 1.0)
    assert only.unique().tolist() == [499]
    none = segments.end(t, midpoints(count), "mixture", 0.0)
    assert torch.equal(none, segments.end(t, midpoints(count), "uniform"))


def test_draws_from_the_grid_alone():
    segments = Segments(4)
    drawn, route = segments.draw_t(midpoints(400), torch.zeros(400))
    assert (next_on(route, drawn) == NOWHERE).all()
    assert Counter(drawn.tolist()) == dict.fromkeys(solver_grid(40), 10)


@every_grid
def test_visited_lists_are_drawn_as_often_as_asked(points):
    """A quarter from the lists, each list equally, each of its timesteps equally; the rest from the grid."""
    segments, fine, lists = Segments(1, points), 8400, 64
    u = midpoints(fine).repeat(lists)
    pick = midpoints(lists).repeat_interleave(fine)
    drawn = Counter(segments.draw_t(u, pick, VISITED, share=0.25)[0].tolist())
    expected: Counter[int] = Counter()
    for timesteps in VISITED:
        expected.update(dict.fromkeys(timesteps, fine // len(timesteps)))
    expected.update(dict.fromkeys(solver_grid(points), 48 * fine // points))
    assert drawn == expected


@pytest.mark.parametrize("share", [0.1, 1.0])
def test_every_visited_timestep_is_drawn_and_no_other(share):
    u, pick = torch.rand(2, 200_000, generator=torch.Generator().manual_seed(0))
    drawn, _ = Segments(1).draw_t(u, pick, VISITED, share)
    visited = {t for timesteps in VISITED for t in timesteps}
    grid = set() if share == 1 else set(solver_grid(40))
    assert set(drawn.tolist()) == visited | grid
    exact = torch.tensor([t in visited - grid for t in range(1000)])[drawn].float().mean().item()
    chance = share * sum(len(set(ts) - grid) / len(ts) for ts in VISITED) / len(VISITED)
    assert exact == pytest.approx(chance, abs=0.005)


def jumps(k: int, points: int, lists: list[list[int]], share: float = 1.0) -> Counter[tuple[int, int]]:
    segments, draws = Segments(k, points), torch.rand(3, 50_000, generator=torch.Generator().manual_seed(0))
    t, route = segments.draw_t(draws[0], draws[1], lists, share)
    end = segments.end(t, draws[2], "visited", after=next_on(route, t))
    return Counter(zip(t.tolist(), end.tolist(), strict=True))


def test_visited_ends_are_the_jumps_of_the_samplers():
    """With one segment every jump of 1, 2 and 4 steps, the last ones to −1, each as often as its list says."""
    found = jumps(1, 8, [trailing(n) for n in (1, 2, 4)])
    chances = {(999, -1): 1 / 3, (999, 499): 1 / 6, (499, -1): 1 / 6, (999, 749): 1 / 12, (749, 499): 1 / 12}
    chances |= {(499, 249): 1 / 12, (249, -1): 1 / 12}
    assert found.keys() == chances.keys()
    assert all(found[jump] / 50_000 == pytest.approx(chance, abs=0.01) for jump, chance in chances.items())


def test_visited_ends_stay_in_the_segment_and_below_the_teachers_step():
    assert set(jumps(4, 8, [trailing(1)])) == {(999, 749)}
    assert set(jumps(1, 8, [strided(8)])) >= {(999, 874), (879, 759), (139, -1)}  # 879 lies above s = 874
    assert {end for t, end in jumps(1, 8, [trailing(1)], share=0.5) if t == 124} == {-1}
    assert len({end for t, end in jumps(1, 8, [trailing(1)], share=0.5) if t == 499}) > 300  # of the grid: uniform


def test_a_route_is_the_whole_list_of_its_timestep():
    u, pick = torch.tensor([0.0, 0.6, 0.6, 0.6]), torch.tensor([0.0, 0.3, 0.5, 0.9])
    t, route = Segments(1).draw_t(u, pick, [[999, 499], [999]], share=0.8)
    assert t.tolist() == [999, 499, 999, 624]
    assert route.tolist() == [[999, 499, -1], [999, 499, -1], [999, -1, -1], [NOWHERE] * 3]
    assert next_on(route, t).tolist() == [499, -1, -1, NOWHERE]


@pytest.mark.parametrize("k", [0, 3, 7])
def test_k_that_does_not_divide_names_those_that_do(k):
    with pytest.raises(ValueError, match=f"{k} segments do not divide .* use one of 1, 2, 4, 5, 8"):
        Segments(k)
