import torch

from hypersd.evaluate import diversity
from hypersd.evaluate.report import Row, Stat
from hypersd.evaluate.rows import comparable


def cloud(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))


def test_a_part_is_precise_and_does_not_recall():
    """The reference has two far clouds, the drawn set only one of them."""
    reference = torch.cat([cloud(200), cloud(200, 1) + 100])
    precision, recall = diversity.precision_recall(cloud(200, 2), reference)
    assert precision > 0.9
    assert 0.4 < recall <= 0.5


def test_too_much_recalls_and_is_not_precise():
    drawn = torch.cat([cloud(200), cloud(200, 1) + 100])
    precision, recall = diversity.precision_recall(drawn, cloud(200, 2))
    assert 0.4 < precision <= 0.5
    assert recall > 0.9


def test_a_set_covers_itself_and_nothing_far():
    assert diversity.precision_recall(cloud(50), cloud(50)) == (1.0, 1.0)
    assert diversity.precision_recall(cloud(50), cloud(50, 1) + 100) == (0.0, 0.0)


def test_the_radius_is_that_of_the_third_neighbour():
    centres = torch.tensor([[0.0], [1.0], [2.0], [3.0], [100.0]])
    assert diversity.coverage(torch.tensor([[-3.0]]), centres) == 1  # |−3 − 0| = 3, as 0's third neighbour
    assert diversity.coverage(torch.tensor([[-3.01]]), centres) == 0


def test_diversity_counts_within_two_points_of_the_teacher():
    assert diversity.counts(0.59, 0.60)
    assert not diversity.counts(0.57, 0.60)


def test_diversity_is_not_shown_where_captions_are_not_followed():
    def row(role, recall):
        return Row(role, 4, 4, "ddim", 1.0, {"recall_at_1": Stat((recall,)), "diversity": Stat((0.5,))})

    rows = comparable([row("teacher", 0.6), row("distilled", 0.59), row("distilled", 0.4)])
    assert ["diversity" in found.values for found in rows] == [True, True, False]
