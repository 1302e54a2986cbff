import pytest
import torch
from torch.nn import functional as F

from hypersd.evaluate import alignment, captions
from hypersd.evaluate.captions import Caption
from hypersd.evaluate.measures import Ruler
from hypersd.evaluate.real import Real


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


def as_set(judged: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"judged": judged, "features": unit(600, 8, 3), "quality": torch.zeros(600), "seconds": torch.zeros(600)}


def test_the_chance_of_a_set_is_what_its_own_pictures_get_under_exchanged_captions(pictures):
    """The scale's 0 is of the teacher's pictures: a set that every caption likes more stands higher by chance."""
    images, texts, own = pictures
    sought = captions.retrieval([Caption(str(i)) for i in range(120)])
    ruler = Ruler(as_set(images), Real(unit(600, 8, 4), unit(600, 8, 5)), texts, sought.candidates, own)
    of_teacher = ruler.measure(as_set(images))
    assert of_teacher["alignment"] == pytest.approx(1, abs=1e-9)
    assert of_teacher["chance"] == pytest.approx(0, abs=1e-9)
    shift = 0.3 * F.normalize(texts.mean(0), dim=0)
    shifted = ruler.measure(as_set(images + shift))
    more = texts.double() @ shift.double()  # for each caption: what the shift adds to every picture's score
    by_hand = float((more.sum() - more[own]).mean() / 119) / (ruler.scale.teacher - ruler.scale.shuffled)
    assert by_hand > 0.02
    assert shifted["chance"] == pytest.approx(by_hand, rel=1e-5)
    gained = float(more[own].mean()) / (ruler.scale.teacher - ruler.scale.shuffled)
    assert shifted["alignment"] == pytest.approx(1 + gained, rel=1e-5)
