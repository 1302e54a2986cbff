"""What counts as a pass, and how many passes of the backbone a pass of another network is."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hypersd import recipe
from hypersd.distill.train import train
from hypersd.distill.watch import Silent
from hypersd.evaluate.budget import Ledger, cost
from hypersd.evaluate.passes import Counter
from hypersd.lora.roles import Roles
from tests.distill.bold import BOLD, FAINT

SAMPLES, PLACES, TOKENS = 4, 8 * 8, 5


class Backbone(nn.Module):
    """16 multiplications a place."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(4, 2, 1, bias=False), nn.Conv2d(2, 4, 1, bias=False)

    def forward(self, x, t):
        return self.up(self.down(x)) * t[:, None, None, None]


class Pair(nn.Module):
    """Compares two pictures, each by 36 multiplications a place."""

    def __init__(self) -> None:
        super().__init__()
        self.eyes = nn.Conv2d(4, 1, 3, padding=1, bias=False)

    def forward(self, images, truth):
        return (self.eyes(images) - self.eyes(truth)).square().mean()


class Reader(nn.Module):
    """Sees a picture by 4 multiplications a place, reads words by attention, and is not sure."""

    words = TOKENS * (4 * 8 * 8 + 2 * 8 * 16) + 2 * TOKENS * TOKENS * 8
    """Multiplications for a sample's words."""

    def __init__(self) -> None:
        super().__init__()
        self.eyes = nn.Conv2d(4, 1, 1, bias=False)
        layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
        self.text = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    def forward(self, images, words):
        return self.eyes(images).mean((1, 2, 3)) + self.text(words).mean((1, 2)) + torch.rand(len(images))


@pytest.fixture
def backbone():
    net = frozen(Backbone())
    net.roles = Roles(net)
    return net


def frozen(network):
    return network.eval().requires_grad_(False)


def picture(learns=False):
    return torch.randn(SAMPLES, 4, 8, 8, requires_grad=learns)


def passed(backbone, network, *inputs):
    """How many of the backbone's multiplications a sample of another network's pass counts as."""
    with Counter().counting() as counter:
        backbone(picture(), torch.ones(SAMPLES))
        assert counter.evaluations == SAMPLES
        network(*inputs)
    return (counter.evaluations - SAMPLES) / SAMPLES * 16 * PLACES


@pytest.mark.parametrize(("learns", "times"), [(False, 1 + 1), (True, 3 + 1)])
def test_another_network_counts_by_its_multiplications(backbone, learns, times):
    """Three times where a gradient flows back, which is not through the pictures that are the truth."""
    assert passed(backbone, frozen(Pair()), picture(learns), picture()) == pytest.approx(times * 36 * PLACES)


def test_no_gradient_is_paid_for_where_none_is_taken(backbone):
    with torch.no_grad():
        assert passed(backbone, frozen(Pair()), picture(True), picture()) == pytest.approx(2 * 36 * PLACES)


def test_attention_counts_though_its_kernel_is_fused(backbone):
    made = passed(backbone, reader := frozen(Reader()), picture(), torch.randn(SAMPLES, TOKENS, 8))
    assert made == pytest.approx(4 * PLACES + reader.words)
    assert torch.backends.mha.get_fastpath_enabled()


def test_who_is_counted_draws_the_same(backbone):
    torch.manual_seed(0)
    reader, inputs = frozen(Reader()), (picture(), torch.randn(SAMPLES, TOKENS, 8))
    alone = reader(*inputs), torch.rand(1)
    torch.manual_seed(0)
    reader, inputs = frozen(Reader()), (picture(), torch.randn(SAMPLES, TOKENS, 8))
    with Counter().counting():
        backbone(inputs[0], torch.ones(SAMPLES))
        counted = reader(*inputs), torch.rand(1)
    assert all(map(torch.equal, alone, counted))


def test_words_alone_and_what_ran_before_the_backbone_are_not_counted(backbone):
    with Counter().counting() as counter:
        frozen(Pair())(picture(), picture())
        backbone(picture(), torch.ones(SAMPLES))
        frozen(Reader()).text(torch.randn(SAMPLES, TOKENS, 8))
    assert counter.evaluations == SAMPLES


def test_a_network_is_measured_once_even_one_that_multiplies_nothing():
    class Toy(nn.Module):
        ran = 0

        def forward(self, x, t):
            self.ran += 1
            return x

    toy = Toy()
    toy.roles = Roles(toy)
    with Counter().counting() as counter:
        for _ in range(3):
            toy(picture(), torch.ones(SAMPLES))
            frozen(Pair())(picture(), picture())
    assert toy.ran == 3 + 1
    assert counter.evaluations == 3 * SAMPLES


def test_a_network_that_breaks_off_leaves_the_count_whole(backbone):
    class Broken(nn.Module):
        def forward(self, images):
            raise KeyError

    with Counter().counting() as counter:
        backbone(picture(), torch.ones(SAMPLES))
        for seen in (picture(), torch.randn(SAMPLES, 4)):
            with pytest.raises(KeyError):
                Broken()(seen)
        backbone(picture(), torch.ones(SAMPLES))
    assert counter.evaluations == 2 * SAMPLES


@pytest.fixture
def judged(tiny_folder):
    """Drawings in two jumps, of which the last one carries gradient; a judge that multiplies nothing is pleased."""
    return recipe.parse(
        {
            "name": "judged",
            "base": str(tiny_folder),
            "data": {"kind": "prompts", "pool": 4},
            "lora": {"rank": 1, "dtype": "fp32"},
            "precision": "fp32",
            "teacher": {"guidance": [1, 1]},
            "batch": SAMPLES,
            "draw": {"points": 8, "visited_share": 1.0, "samplers": ["ddim"], "steps": [2], "end": "visited"},
            "losses": {"feedback": {"judges": {BOLD: {"target": 9.0}}, "watch": {FAINT: {}}}},
            "stages": [{"segments": 1, "iterations": 2}],
            "sampler": {"steps": [2]},
        }
    )


def multiplications(network, *inputs):
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
        network(*inputs)
    return counted.get_total_flops()


def test_an_update_pays_for_the_decoder_that_its_judges_see_through(tmp_path, judged, tiny_base):
    latents = torch.zeros(1, *tiny_base.latent_shape())
    decoder = multiplications(tiny_base.to_images, latents)
    unet = multiplications(tiny_base.predict, latents, torch.tensor([500]), tiny_base.encode(["a cat"]))
    (price,) = cost(judged, tmp_path, Silent())
    assert price == pytest.approx(SAMPLES * (1 + 3 + 3 * decoder / unet), abs=0.5)  # to the whole pass
    assert decoder > unet / 10


def test_a_run_that_is_counted_is_the_same_run(tmp_path, judged):
    alone = train(judged, tmp_path / "alone")
    with Counter().counting() as counter:
        counted = train(judged, tmp_path / "counted", watch=Ledger(counter, Silent()))
    one, other = load_file(alone), load_file(counted)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)
