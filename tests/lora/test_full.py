"""A full role must be what a network of its own would be, beside teacher and LoRAs on the same modules."""

from __future__ import annotations

import copy

import pytest
import torch

from hypersd import bases
from hypersd.bases.sd15 import LORA_TARGETS
from hypersd.lora import algebra, files
from hypersd.lora.roles import Roles
from tests.conftest import make_unet
from tests.lora.test_roles import call, mixed_loss
from tests.loras import write_lora


def shaken(state, seed: int):
    generator = torch.Generator().manual_seed(seed)
    return {name: weight + 0.05 * torch.randn(weight.shape, generator=generator) for name, weight in state.items()}


@pytest.fixture
def roles(tiny_unet) -> Roles:
    """A full student and a full target, with weights of their own, and a fake score that is a LoRA."""
    made = Roles(tiny_unet)
    for seed, role in enumerate(("student", "target")):
        made.add_full(role)
        made.load(role, shaken(made.state(role), seed))
    made.add("fake", 2, LORA_TARGETS)
    made.load("fake", shaken(made.state("fake"), 2))
    return made


def separate(state):
    net = make_unet()
    net.load_state_dict(state)
    return net


def test_each_role_is_its_own_network(roles):
    for role in ("student", "target"):
        with roles.play(role):
            assert torch.equal(call(roles.net), call(separate(roles.state(role))))
    assert torch.equal(call(roles.net), call(make_unet()))  # the teacher


def test_it_begins_as_the_base(tiny_unet):
    roles = Roles(tiny_unet)
    roles.add("fake", 2, LORA_TARGETS)  # wraps modules first: names are the network's own all the same
    roles.add_full("student")
    assert roles.parameters("student").keys() == make_unet().state_dict().keys()
    with roles.play("student"):
        assert torch.equal(call(tiny_unet), call(make_unet()))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_equal_those_of_a_network_of_its_own(roles, checkpointing):
    """Teacher in the same graph, fake score and target run in between, another role on stage during backward."""
    if checkpointing:
        roles.net.train().enable_gradient_checkpointing(roles.checkpoint)
    loss = mixed_loss(roles.net, roles)
    with roles.play("fake"):
        loss.backward()

    student, target = separate(roles.state("student")), separate(roles.state("target"))
    student.requires_grad_(True)
    output = call(student)
    reference = (output - call(target, 1).detach()).square().mean() + (output * call(make_unet(), 2)).mean()
    reference.backward()
    assert loss.item() == pytest.approx(reference.item(), rel=1e-6)
    mine, theirs = roles.parameters("student"), dict(student.named_parameters())
    assert mine.keys() == theirs.keys()
    for name, parameter in theirs.items():
        torch.testing.assert_close(mine[name].grad, parameter.grad, rtol=1e-4, atol=1e-7, msg=name)
    others = [*roles.parameters("target").values(), *roles.net.parameters()]  # the base's own, and the fake score's
    assert all(parameter.grad is None for parameter in others)


def test_switching_leaves_the_network_as_it_was(roles):
    before = dict(roles.net.named_parameters())
    with pytest.raises(RuntimeError, match="boom"), roles.play("student"), roles.play("fake"), roles.play("target"):
        raise RuntimeError("boom")
    after = dict(roles.net.named_parameters())
    assert before.keys() == after.keys()
    assert all(after[name] is parameter for name, parameter in before.items())
    assert not any(parameter.requires_grad for name, parameter in after.items() if "lora_" not in name)


def test_a_lora_plays_on_a_full_role_folded_or_not(roles):
    with roles.play("student", "fake"):
        expected = call(roles.net)
    reference = copy.deepcopy(separate(roles.state("student")))
    on_it = Roles(reference)
    on_it.add("fake", 2, LORA_TARGETS)
    on_it.load("fake", roles.state("fake"))
    with on_it.play("fake"):
        assert torch.equal(call(reference), expected)
    with roles.fold("student", "fake"), roles.play("student", "fake"):
        torch.testing.assert_close(call(roles.net), expected, rtol=1e-4, atol=1e-5)


def test_follow_is_the_moving_average(roles):
    student, target = roles.state("student"), roles.state("target")
    roles.follow("target", "student", 0.9)
    for name, now in roles.state("target").items():
        torch.testing.assert_close(now, 0.9 * target[name] + 0.1 * student[name])


def test_a_role_is_added_once(roles):
    with pytest.raises(ValueError, match="'student' is already there"):
        roles.add_full("student")


def test_a_lora_in_the_weights_is_the_lora_on_the_network(tiny_base, tmp_path):
    file = files.read(write_lora(tiny_base, tmp_path / "x.safetensors"))
    roles = Roles(bases.load(tiny_base.source, "cpu").unet)
    roles.add_full("student")
    roles.add("lora", file.rank, file.targets)
    roles.load("lora", file.weights)
    roles.load("student", algebra.merged(roles.state("student"), file.weights))
    with roles.play("lora"):
        expected = call(roles.net)
    with roles.play("student"):
        torch.testing.assert_close(call(roles.net), expected, rtol=1e-4, atol=1e-4)
