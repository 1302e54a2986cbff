"""Who is trained in each phase of each loss: exactly whose parameters get a gradient, and that it is the one of
networks that share nothing, with gradient checkpointing and with folded LoRAs too.

The reference is the same loss on one deep copy of the base for each role. Score distillation and drawings before a
discriminator, feedback and the perceptual loss are held against formulas written out in files of their own
(`test_score_networks.py`, `test_adversarial.py`, `test_feedback.py`, `test_perceptual.py`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hypersd import bases
from hypersd.diffusion.segments import Segments
from hypersd.distill import losses
from hypersd.distill.losses.score import FAKE
from hypersd.distill.randomness import generators, shared
from hypersd.distill.step import PREVIOUS, STUDENT, TARGET, Nets, draw_batch
from hypersd.lora.roles import Roles
from hypersd.recipe import Draw
from tests.distill.bold import TWIN

HEADS, TEACHER = "heads", "teacher"
SIZE, POINTS, TARGETS = 4, 2, ("to_v", "conv2")
"""Samples; points of the paths; what LoRAs are on."""


@dataclass(frozen=True)
class Case:
    loss: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    opponent: str | None = None
    others: tuple[str, ...] = ()
    """Roles that are there and never trained."""
    how: Mapping[str, str] = field(default_factory=dict)
    """Of the nets."""
    full: bool = False

    @property
    def roles(self) -> tuple[str, ...]:
        return (STUDENT, *self.others, *([FAKE] if self.opponent == FAKE else []))


PAIR = {"of": "jump", "real": "target", "pair": True}
CASES = {
    "consistency": Case("consistency"),
    "other networks": Case("consistency", others=(TARGET, PREVIOUS), how={"target": TARGET, "previous": PREVIOUS}),
    "regression": Case("regression"),
    "rollout": Case("rollout"),
    "likeness": Case("likeness", {"name": TWIN}),
    "trajectory": Case("score", {"trajectory": True}, FAKE),
    "pair": Case("adversarial", PAIR, HEADS, (TARGET,), {"target": TARGET}),
    "pool": Case("adversarial", {"of": "jump", "pool": 3, "refreshed": 0.5, "r1": 2.0, "r1_noise": 0.1}, HEADS),
    "full, consistency": Case("consistency", full=True, others=(TARGET,), how={"target": TARGET}),
    "full, score": Case("score", opponent=FAKE, full=True),
    "full, pair": Case("adversarial", PAIR, HEADS, full=True),
}
Gradients = dict[tuple[str, str], Tensor]
"""By whose parameter it is, and its name."""


class Alone(Roles):
    """In the place of roles: each is a network that plays nothing else."""

    def __init__(self, networks: dict[str, Any]) -> None:
        self.networks = networks

    @contextmanager
    def play(self, *roles):
        before, self.nets.base = self.nets.base, self.networks[roles[-1] if roles else TEACHER]
        try:
            yield
        finally:
            self.nets.base = before


def weights(names: Mapping[str, Tensor], role: str) -> dict[str, Tensor]:
    """Random ones of a LoRA, or of a whole network nearby: the same for the same role."""
    rng, near = torch.Generator().manual_seed(len(role)), not any("lora_" in name for name in names)
    noise = {name: torch.randn(names[name].shape, generator=rng) for name in sorted(names)}
    return {name: weight + 0.02 * noise[name] if near else 0.2 * noise[name] for name, weight in names.items()}


def own_copy(base):
    """Of its network; what encodes captions is nobody's."""
    own = copy.copy(base)
    own.unet = copy.deepcopy(base.unet)
    return own


def add(roles: Roles, role: str, full: bool) -> None:
    if full:
        roles.add_full(role)
    else:
        roles.add(role, 2, TARGETS)
    roles.load(role, weights(roles.state(role), role))


def network(base, role: str, full: bool) -> tuple[Any, dict[str, nn.Parameter]]:
    """A copy that is this role and nothing else, with what is trained of it."""
    own = own_copy(base)
    if full:
        named = dict(own.unet.named_parameters())
        own.unet.load_state_dict(weights(named, role))
        own.unet.requires_grad_(True)
        return own, dict(sorted(named.items()))
    roles = Roles(own.unet)
    add(roles, role, full=False)
    own.for_good = ExitStack()
    own.for_good.enter_context(roles.play(role))
    return own, roles.parameters(role)


def batch_of(base, case: Case):
    generator = torch.Generator().manual_seed(1)
    paths = case.loss in ("rollout", "regression", "likeness")
    shape = (SIZE, *([POINTS + 1] if paths else []), *base.latent_shape())
    draw = Draw(end="visited", visited_share=1.0, pure_noise=1.0, points=POINTS if paths else 40)
    batch = draw_batch(
        base,
        torch.randn(shape, generator=generator),
        base.encode(["a cat"] * SIZE),
        generators(0, 0, 0, range(SIZE)),
        Segments(1, draw.points),
        draw,
        [[999], [999, 499]],
        (3.0, 3.0),
    )
    object.__setattr__(batch, "shared", shared(0, 0, 0))
    return batch


def phases(case: Case, loss, nets, trained: Mapping[str, Mapping[str, nn.Parameter]], folded=ExitStack):
    """The gradients of the student's phase, and of its opponent's, if it has one: both on one batch, in turn."""
    found, batch = [], batch_of(nets.base, case)
    for phase in (loss.student, *([loss.opponent] if case.opponent else [])):
        with folded():
            phase(batch, nets).backward()
        named = {(who, name): p for who, parameters in trained.items() for name, p in parameters.items()}
        found.append({key: parameter.grad for key, parameter in named.items() if parameter.grad is not None})
        for parameter in named.values():
            parameter.grad = None
    return found


def heads(loss, base) -> dict[str, dict[str, nn.Parameter]]:
    built = loss.build(base, 0) if hasattr(loss, "build") else None
    return {HEADS: dict(built.named_parameters())} if built is not None else {}


def apart(base, case: Case) -> list[Gradients]:
    """On networks that share nothing."""
    whole = {role: case.full and role != FAKE for role in case.roles}
    made = {role: network(base, role, whole[role]) for role in case.roles}
    teacher, loss = own_copy(base), losses.load(case.loss, case.settings)
    alone = Alone({TEACHER: teacher, **{role: own for role, (own, _) in made.items()}})
    alone.nets = nets = Nets(teacher, alone, **case.how)
    trained = {role: parameters for role, (_, parameters) in made.items()}
    return phases(case, loss, nets, {**trained, **heads(loss, teacher)})


def together(base, case: Case) -> Iterator[tuple[str, list[Gradients]]]:
    """On one network in its roles, in each way; everything of which a gradient could be is looked at."""
    own = dict(base.unet.named_parameters())
    roles = Roles(base.unet)
    for role in case.roles:
        add(roles, role, case.full and role != FAKE)
    trained = {TEACHER: own, **{role: roles.parameters(role) for role in case.roles}}
    learn = [role for role in (STUDENT, FAKE) if role in case.roles]

    def folded() -> ExitStack:
        stack = ExitStack()
        for role in learn if way == "folded" else ():
            stack.enter_context(roles.fold(role))
        return stack

    for way in ("plain", "folded", "checkpointing"):
        if way == "checkpointing":
            base.unet.train().enable_gradient_checkpointing(roles.checkpoint)
        loss = losses.load(case.loss, case.settings)
        yield way, phases(case, loss, Nets(base, roles, **case.how), {**trained, **heads(loss, base)}, folded)


@pytest.fixture(scope="module")
def base(tiny_folder):
    return bases.load(tiny_folder, "cpu")


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_each_phase_trains_its_own(base, case):
    expected = apart(base, case)
    for way, found in together(own_copy(base), case):
        for who, mine, theirs in zip((STUDENT, case.opponent), found, expected, strict=False):
            assert mine.keys() == theirs.keys(), way
            assert {owner for owner, _ in mine} == {who}, way
            largest = max(float(gradient.abs().max()) for gradient in theirs.values())
            assert largest > 1e-4
            for key, gradient in theirs.items():
                close = {"rtol": 1e-3, "atol": 1e-4 * largest, "msg": f"{way}: {key}"}
                torch.testing.assert_close(mine[key], gradient, **close)
