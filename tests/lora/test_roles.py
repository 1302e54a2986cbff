"""Roles on one network must be what separate networks would be, gradients included."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import inject_adapter_in_model
from peft.tuners.lora import LoraConfig

from hypersd.bases.sd15 import LORA_TARGETS
from hypersd.lora.roles import Roles

ROLES = ("student", "target", "fake")


def inputs(seed: int):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 4, 8, 8, generator=generator)
    tokens = torch.randn(2, 5, 8, generator=generator)
    return x, torch.tensor([400, 999]), tokens


def call(net, seed: int = 0):
    x, t, tokens = inputs(seed)
    return net(x, t, tokens, return_dict=False)[0]


@pytest.fixture
def roles(tiny_unet) -> Roles:
    """Three roles with random weights, B too, so that each changes the output."""
    made = Roles(tiny_unet)
    for seed, role in enumerate(ROLES):
        made.add(role, 2, LORA_TARGETS, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        state = {k: 0.2 * torch.randn(v.shape, generator=generator) for k, v in made.state(role).items()}
        made.load(role, state)
    return made


def separate(net, role: str, state):
    """A network of its own with one LoRA: what `role` is meant to equal."""
    inject_adapter_in_model(LoraConfig(r=2, lora_alpha=2, target_modules=list(LORA_TARGETS)), net, role)
    parameters = Roles.parameters(type("Holder", (), {"net": net, "_full": {}})(), role)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state[name])
    return net, parameters


def test_each_role_is_its_own_network(roles, tiny_unet):
    outputs = {}
    for role in ROLES:
        with roles.play(role):
            outputs[role] = call(roles.net)
    assert (outputs["student"] - outputs["target"]).abs().max() > 1e-2
    for role in ROLES:
        from tests.conftest import make_unet

        alone, _ = separate(make_unet(), role, roles.state(role))
        assert torch.equal(call(alone), outputs[role])


def test_the_teacher_is_the_untouched_network(roles):
    from tests.conftest import make_unet

    assert torch.equal(call(roles.net), call(make_unet()))


def test_two_roles_add_up(roles):
    """Scaling a role by 0 leaves the other alone."""
    with roles.play("student"):
        student = call(roles.net)
    roles.scale("fake", 0.0)
    with roles.play("student", "fake"):
        assert torch.equal(call(roles.net), student)


def mixed_loss(net, roles: Roles):
    """Student and teacher passes in one graph, the target's without gradient, and others run in between."""
    with roles.play("student"):
        student = call(net)
    with roles.play("target"), torch.no_grad():
        target = call(net, 1)
    teacher = call(net, 2)  # adapters off, in the same graph
    with roles.play("fake"):
        call(net, 3)
    return (student - target).square().mean() + (student * teacher).mean()


def test_a_frozen_role_is_part_of_the_network_and_gets_no_gradient(roles):
    roles.freeze("target")
    roles.add("late", 2, LORA_TARGETS)  # which PEFT takes for an occasion to thaw the others
    with roles.play("target", "student"):
        both = call(roles.net)
        both.square().mean().backward()
    with roles.play("student"):
        assert not torch.allclose(call(roles.net), both)
    graded = {role: {p.grad is not None for p in roles.parameters(role).values()} for role in ROLES}
    assert graded == {"student": {True}, "target": {False}, "fake": {False}}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_equal_those_of_separate_networks(roles, checkpointing):
    from tests.conftest import make_unet

    if checkpointing:
        roles.net.train().enable_gradient_checkpointing(roles.checkpoint)
    loss = mixed_loss(roles.net, roles)
    with roles.play("fake"):  # another role is on stage while backward runs
        loss.backward()

    plain = make_unet()
    student_net, student = separate(copy.deepcopy(plain), "student", roles.state("student"))
    target_net, _ = separate(copy.deepcopy(plain), "target", roles.state("target"))
    output = call(student_net)
    reference = (output - call(target_net, 1).detach()).square().mean() + (output * call(plain, 2)).mean()
    reference.backward()

    assert loss.item() == pytest.approx(reference.item(), rel=1e-6)
    mine = roles.parameters("student")
    assert mine.keys() == student.keys()
    assert any(parameter.grad.abs().max() > 1e-4 for parameter in mine.values())
    for name, parameter in student.items():
        torch.testing.assert_close(mine[name].grad, parameter.grad, rtol=1e-4, atol=1e-7, msg=name)
    for role in ("target", "fake"):
        assert all(parameter.grad is None for parameter in roles.parameters(role).values())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_folded_role_has_the_same_output_and_gradients(roles, checkpointing):
    """Twice in one graph, beside the teacher, at a strength that is not 1."""
    roles.scale("student", 0.7)
    with roles.play("student"):
        expected = call(roles.net)
    mixed_loss(roles.net, roles).backward()
    reference = {name: parameter.grad.clone() for name, parameter in roles.parameters("student").items()}
    roles.net.zero_grad()
    if checkpointing:
        roles.net.train().enable_gradient_checkpointing(roles.checkpoint)
    with roles.fold("student"):
        with roles.play("student"):
            torch.testing.assert_close(call(roles.net), expected, rtol=1e-4, atol=1e-5)
        loss = mixed_loss(roles.net, roles)
        with roles.play("fake"):
            loss.backward()
    for name, parameter in roles.parameters("student").items():
        torch.testing.assert_close(parameter.grad, reference[name], rtol=1e-3, atol=1e-6, msg=name)


def test_after_folding_the_network_is_what_it_was(roles):
    before = dict(roles.net.named_parameters())
    with pytest.raises(RuntimeError, match="boom"), roles.fold("student"), roles.play("student"):
        raise RuntimeError("boom")
    after = dict(roles.net.named_parameters())
    assert before.keys() == after.keys()
    assert all(after[name] is parameter for name, parameter in before.items())
    assert all(parameter.grad is None for parameter in after.values())


def test_peft_switches_would_lose_the_gradient(roles):
    """The trap that roles.py avoids; should PEFT mend it, its own switch can be used."""
    adapter = [layer for layer in roles.net.modules() if hasattr(layer, "set_adapter") and hasattr(layer, "lora_A")]
    with roles.play("student"):
        loss = call(roles.net).square().mean()
    for layer in adapter:
        layer.set_adapter(["target"])
    loss.backward()
    assert all(parameter.grad is None for parameter in roles.parameters("student").values())


def test_weights_that_do_not_fit_are_refused_whole(roles):
    before, wrong = roles.state("student"), roles.state("target")
    last = max(wrong)
    with pytest.raises(ValueError, match=rf"do not fit the role 'student': {last} is \[.*\], not \["):
        roles.load("student", {**wrong, last: wrong[last][:1]})
    with pytest.raises(ValueError, match=f"{last} is on one side only"):
        roles.load("student", {name: weight for name, weight in wrong.items() if name != last})
    assert all(torch.equal(weight, before[name]) for name, weight in roles.state("student").items())


def test_switching_never_touches_requires_grad(roles):
    before = {name: p.requires_grad for name, p in roles.net.named_parameters()}
    with roles.play("student"), roles.play(), roles.play("target"):
        call(roles.net)
    assert before == {name: p.requires_grad for name, p in roles.net.named_parameters()}
    assert all(grad == ("lora_" in name) for name, grad in before.items())


def test_play_restores_the_role_when_it_fails(roles):
    with pytest.raises(RuntimeError, match="boom"), roles.play("student"), roles.play("target"):
        raise RuntimeError("boom")
    assert roles.playing == ()


def test_follow_is_the_moving_average(roles):
    student, target = roles.state("student"), roles.state("target")
    roles.follow("target", "student", 0.9)
    for name, now in roles.state("target").items():
        torch.testing.assert_close(now, 0.9 * target[name] + 0.1 * student[name])


def test_same_seed_same_start(tiny_unet):
    roles = Roles(tiny_unet)
    for role, seed in (("a", 5), ("b", 5), ("c", 6)):
        roles.add(role, 2, LORA_TARGETS, seed=seed)
    a, b, c = (roles.state(role) for role in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert any(not torch.equal(a[name], c[name]) for name in a)


def test_weights_of_another_shape_are_refused(roles):
    state = roles.state("student")
    state.pop(next(iter(state)))
    with pytest.raises(ValueError, match="do not fit"):
        roles.load("student", state)
