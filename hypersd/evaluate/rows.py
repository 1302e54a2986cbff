"""The rows of an evaluation: what is drawn in which order, and what each way of drawing gets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from hypersd.evaluate import captions, diversity, measures, paths, protocol
from hypersd.evaluate.baselines import choose
from hypersd.evaluate.captions import Caption
from hypersd.evaluate.measures import Ruler
from hypersd.evaluate.protocol import Plan
from hypersd.evaluate.real import Real
from hypersd.evaluate.report import Report, Row, Stat
from hypersd.evaluate.sets import Set, Studio
from hypersd.evaluate.yardsticks import yardsticks

PATH_WORK = 600  # passes of the network for one path and all that is measured on it, about
Progress = Callable[[str, float], None]
"""(what is being done, the share of all work that is done) -> None."""
Selection = dict[str, dict[str, float]]


@dataclass
class Meter:
    """Turns what is finished into a share of all passes of the network."""

    progress: Progress
    total: int
    done: int = 0
    label: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    """What each set took to draw, be it today or when it was put into the cache."""

    def tick(self, evaluations: int) -> None:
        self.done += evaluations
        self.progress(self.label, min(self.done / self.total, 1.0))


@dataclass(frozen=True)
class Job:
    """What every row of one evaluation shares."""

    studio: Studio
    split: str
    captions: Sequence[Caption]
    own: Tensor
    """The caption of each picture of a set."""
    sets: int
    steps: tuple[int, ...]
    guidance: float
    path_pictures: int
    meter: Meter

    def draw(self, plan: Plan, number: int, pictures: int | None = None, second: bool = False) -> Set:
        """Set `number` of a plan, the first `pictures` of it."""
        count = pictures or len(self.own)
        prompts = [self.captions[i].text for i in self.own[:count].tolist()]
        seeds = protocol.seeds(self.split, number, count)
        self.meter.label = f"{plan.label}, set {number}"

        def tick(drawn: int) -> None:
            self.meter.tick(drawn * plan.evaluations)

        drawn = self.studio.measure(plan, prompts, seeds, second, tick)
        self.meter.seconds[f"{self.meter.label}, {count}"] = float(drawn["seconds"].sum())
        return drawn


def measure(job: Job, real: Real) -> Report:
    """Everything: the reference, the baselines, the LoRA, the paths, and whether the yardsticks hold."""
    teacher = protocol.teacher(job.guidance)
    reference = job.draw(teacher, protocol.REFERENCE, second=True)
    ruler = measures.ruler(reference, real, captions.retrieval(job.captions), job.own, job.studio.eyes)
    others, selection = undistilled(job, ruler)
    plans = [("teacher", teacher), *others]
    if job.studio.tuned:
        plans += [("distilled", plan) for plan in protocol.students(job.steps, job.studio.tuned.made)]
    rows = [row(job, ruler, role, plan) for role, plan in plans]
    errors, ways = path_errors(job, [plan for _, plan in plans[1:]])
    rows = [with_path(found, errors.get(plan.label)) for found, (_, plan) in zip(rows, plans, strict=True)]
    rows, ends = comparable(with_ratios(rows)), ruler.ends()
    return Report(tuple(rows), tuple(yardsticks(rows, ends)), ends, ways, selection)


def undistilled(job: Job, ruler: Ruler) -> tuple[list[tuple[str, Plan]], Selection]:
    """The guided base at 4 steps, and the best at equal steps and at equal evaluations."""
    plans, selection = [("hardness", protocol.hard(job.guidance))], {}

    def far(plan: Plan) -> float:
        drawn = job.draw(plan, protocol.SELECTION, selected(len(job.own)))
        return ruler.far(drawn)

    for n in job.steps:
        for role, rivals in (("steps", protocol.at_steps), ("evaluations", protocol.at_evaluations)):
            where = f"{n} {role}" if n > 1 else f"{n} {role[:-1]}"
            best, selection[where] = choose(rivals(n, job.guidance), far)
            plans.append((f"undistilled, equal {role}", best))
    return plans, selection


def selected(pictures: int) -> int:
    """How many pictures of each candidate are enough to see which is nearest to the teacher."""
    return min(pictures, max(128, pictures // 16 * 2))


def row(job: Job, ruler: Ruler, role: str, plan: Plan) -> Row:
    """A plan's numbers over all sets; the slow second opinion looks at the first one."""
    sets = [ruler.measure(job.draw(plan, n, second=n == 1)) for n in range(1, job.sets + 1)]
    values = {name: Stat(tuple(found[name] for found in sets if name in found)) for name in sets[0]}
    settings = plan.settings
    return Row(role, settings.steps, plan.evaluations, plan.sampler, settings.guidance_scale, values)


def path_errors(job: Job, plans: Sequence[Plan]) -> tuple[dict[str, Stat], dict[str, dict[str, Stat]]]:
    """Errors from pure noise by plan, and errors by segment of each way of jumping."""
    if not job.path_pictures:
        return {}, {}
    unique = list({plan.label: plan for plan in plans}.values())
    prompts = [job.captions[i % len(job.captions)].text for i in range(job.path_pictures)]
    sets = []
    for number in range(1, job.sets + 1):
        job.meter.label = f"paths, set {number}"
        which = paths.Paths(job.studio, prompts, job.guidance, job.split, number)
        sets.append(paths.measure(which, unique))
        job.meter.tick(job.path_pictures * PATH_WORK)
    stats = {who: {name: Stat(tuple(found[who][name] for found in sets)) for name in sets[0][who]} for who in sets[0]}
    final = {who: found.pop(paths.FROM_NOISE) for who, found in stats.items() if paths.FROM_NOISE in found}
    return final, {who: found for who, found in stats.items() if found}


def with_path(row: Row, error: Stat | None) -> Row:
    return row if error is None else replace(row, values={**row.values, "path": error})


def with_ratios(rows: Sequence[Row]) -> list[Row]:
    """Adds each distilled row's FD to the teacher over that of the best undistilled at the same steps."""
    best = {row.steps: row.values["fd_teacher"] for row in rows if row.role == "undistilled, equal steps"}

    def ratio(row: Row) -> Stat:
        pairs = zip(row.values["fd_teacher"].values, best[row.steps].values, strict=True)
        return Stat(tuple(mine / rival for mine, rival in pairs))

    def speaks(row: Row) -> bool:
        """A rival that is no farther than the floor leaves nothing to divide by."""
        return row.role == "distilled" and min(best[row.steps].values) > 0

    return [replace(row, values={**row.values, "fd_ratio": ratio(row)}) if speaks(row) else row for row in rows]


def comparable(rows: Sequence[Row]) -> list[Row]:
    """Leaves diversity out where captions are not followed as by the teacher: see `diversity.py`."""
    (teacher,) = (row for row in rows if row.role == "teacher")

    def keep(row: Row) -> bool:
        return diversity.counts(row.mean("recall_at_1"), teacher.mean("recall_at_1"))

    def without(row: Row) -> Row:
        return replace(row, values={name: v for name, v in row.values.items() if name != "diversity"})

    return [row if keep(row) else without(row) for row in rows]


def work(job_steps: Sequence[int], guidance: float, pictures: int, sets: int, tuned: bool, paths: int) -> int:
    """About how many passes of the network there are to do, for the progress bar."""
    teacher, hard = protocol.teacher(guidance), protocol.hard(guidance)
    candidates = [
        plan for n in job_steps for plan in (*protocol.at_steps(n, guidance), *protocol.at_evaluations(n, guidance))
    ]
    rows = [teacher, hard, *(protocol.students(job_steps) if tuned else [])]
    passes = sum(plan.evaluations for plan in rows) + 3 * sum(job_steps)  # best at equal steps: guided, say
    chosen = selected(pictures) * sum(plan.evaluations for plan in candidates)
    return pictures * (teacher.evaluations + sets * passes) + chosen + sets * paths * PATH_WORK
