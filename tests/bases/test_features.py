"""The base's features: maps on the way down to the middle, and not a pass more."""

from __future__ import annotations

import torch

T = torch.tensor([400, 999])


def noisy() -> torch.Tensor:
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def by_hand(base, x, t, cond) -> list[torch.Tensor]:
    """The same through the UNet's own blocks."""
    net = base.unet
    embedded = net.time_embedding(net.time_proj(t))
    first, second = net.down_blocks
    h = first.resnets[0](net.conv_in(x), embedded)
    at_eight = first.attentions[0](h, encoder_hidden_states=cond.tokens, return_dict=False)[0]
    at_four = second.resnets[0](first.downsamplers[0](at_eight), embedded)
    return [at_eight, at_four, net.mid_block(at_four, embedded, encoder_hidden_states=cond.tokens)]


def test_features_are_those_of_the_blocks(tiny_base):
    x, cond = noisy(), tiny_base.encode(["a cat", "a dog"])
    found, expected = tiny_base.features(x, T, cond), by_hand(tiny_base, x, T, cond)
    assert [list(f.shape[1:]) for f in found] == [[4, 8, 8], [8, 4, 4], [8, 4, 4]]
    for got, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(got, wanted)


def test_features_are_differentiable_and_leave_nothing_behind(tiny_base):
    x, cond = noisy().requires_grad_(), tiny_base.encode(["a cat", "a dog"])
    before = tiny_base.predict(x, T, cond)[0]
    sum(f.square().sum() for f in tiny_base.features(x, T, cond)).backward()
    assert x.grad.abs().max() > 0
    assert torch.equal(tiny_base.predict(x, T, cond)[0], before)


def test_what_lies_behind_the_middle_does_not_run(tiny_base):
    ran, cond = [], tiny_base.encode(["a", "b"])
    tiny_base.unet.up_blocks[0].register_forward_hook(lambda *_: ran.append("up"))
    tiny_base.features(noisy(), T, cond)
    assert not ran
    tiny_base.predict(noisy(), T, cond)
    assert ran == ["up"]
