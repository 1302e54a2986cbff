import pytest
import torch
from torch.nn import functional as F

from hypersd.evaluate import alignment, captions
from hypersd.evaluate.captions import Caption


def unit(n: int, d: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=1)


@pytest.fixture
def pictures():
    """600 pictures of 120 captions, each near its own caption."""
    texts, own = unit(120, 32, 0), captions.paired(120, 600)
    return F.normalize(texts[own] + 0.5 * unit(600, 32, 1), dim=1), texts, own


def test_the_teacher_is_1_and_exchanged_captions_are_0(pictures):
    images, texts, own = pictures
    scale = alignment.scale(images, texts, own)
    assert scale.normalise(alignment.score(images, texts[own])) == pytest.approx(1)
    exchanged = [alignment.score(images, texts[(own + shift) % 120]) for shift in range(1, 120)]
    assert scale.normalise(sum(exchanged) / 119) == pytest.approx(0, abs=1e-9)
    assert abs(scale.normalise(exchanged[0])) < 0.05


def test_exchanged_captions_are_retrieved_by_chance(pictures):
    images, texts, own = pictures
    sought = captions.retrieval([Caption(str(i)) for i in range(120)])
    assert sought.candidates.shape == (120, 100)
    assert alignment.recall_at_1(images, texts, sought.candidates[own]) > 0.95
    by_chance = alignment.recall_at_1(images, texts, sought.candidates[(own + 7) % 120])
    assert by_chance < 0.01 + 3 * (0.01 * 0.99 / 600) ** 0.5


def test_a_tie_is_not_a_hit():
    images, texts = torch.ones(2, 4), torch.ones(3, 4)
    assert alignment.recall_at_1(images, texts, torch.tensor([[0, 1, 2], [1, 0, 2]])) == 0
