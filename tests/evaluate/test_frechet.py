import pytest
import torch

from hypersd.evaluate import frechet


def normal(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_of_gaussians_with_one_basis_is_the_sum_over_axes():
    """|μ1 − μ2|² + Σ (s1 − s2)², in any rotation of the axes."""
    s1, s2 = torch.tensor([1.0, 2.0, 0.5]).double(), torch.tensor([1.5, 0.5, 0.5]).double()
    mean = torch.tensor([3.0, 0.0, -1.0]).double()
    rotation, _ = torch.linalg.qr(normal(3, 3))
    a, b = (rotation @ torch.diag(s**2) @ rotation.T for s in (s1, s2))
    expected = 10.0 + 0.25 + 2.25
    assert frechet.gaussian_distance(mean, a, torch.zeros(3).double(), b) == pytest.approx(expected, abs=1e-10)


def test_of_commuting_and_other_covariances_equals_the_root_of_the_product():
    """tr (C1 C2)^½ is the sum of roots of the eigenvalues of C1 C2, which is not symmetric."""
    a, b = (
        frechet.covariance(normal(50, 4)),
        frechet.covariance(normal(50, 4, 1) * torch.tensor([1, 2, 3, 4])),
    )
    roots = torch.linalg.eigvals(a @ b).real.sqrt().sum()
    expected = float(a.trace() + b.trace() - 2 * roots)
    zero = torch.zeros(4).double()
    assert frechet.gaussian_distance(zero, a, zero, b) == pytest.approx(expected, abs=1e-10)


def test_of_a_set_to_itself_is_nothing_and_of_a_shift_its_square():
    x = normal(200, 8)
    assert frechet.distance(x, x) == pytest.approx(0, abs=1e-10)
    assert frechet.distance(x, x + 2) == pytest.approx(8 * 4, abs=1e-9)


def test_a_rank_deficient_set_is_no_trouble():
    flat = normal(20, 8)
    flat[:, 3:] = 0
    assert frechet.distance(flat, flat) == pytest.approx(0, abs=1e-10)


def test_above_the_floor_another_set_of_the_same_kind_is_at_nothing():
    """Twenty pairs of sets: the mean is within two standard errors of 0, while the floor itself is not."""
    above, floors = [], []
    for seed in range(20):
        a, b = normal(400, 16, 2 * seed), normal(400, 16, 2 * seed + 1)
        floors.append(frechet.floor(b))
        above.append(frechet.between_halves(a, b) - floors[-1])
    found = torch.tensor(above)
    assert abs(found.mean()) < 2 * found.std() / 20**0.5
    assert min(floors) > 10 * abs(float(found.mean()))


def test_principal_directions_are_those_of_most_variance():
    x = normal(2000, 6) * torch.tensor([1, 9, 2, 7, 3, 1]).double()
    basis = frechet.principal(x, 2)
    assert basis.directions[[1, 3], [0, 1]].abs().min() > 0.99
    assert basis.project(x).mean(0).abs().max() < 1e-10
    spread = basis.project(x).std(0)
    assert spread[0] == pytest.approx(9, rel=0.05)
    assert spread[1] == pytest.approx(7, rel=0.05)


def test_kernel_distance_is_unbiased():
    """Its mean over sets of one distribution is 0 within two standard errors; a shift is far above."""
    same = [frechet.kernel_distance(normal(60, 8, 2 * i), normal(60, 8, 2 * i + 1)) for i in range(40)]
    found = torch.tensor(same)
    assert abs(found.mean()) < 2 * found.std() / 40**0.5
    assert min(same) < 0 < max(same)
    assert frechet.kernel_distance(normal(60, 8), normal(60, 8, 1) + 1) > 10 * found.abs().max()


def test_kernel_distance_of_two_points_by_hand():
    a, b = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [3.0]])
    within = (1 * 2 + 1) ** 3 + (0 * 3 + 1) ** 3
    across = (1 + 4**3 + 1 + 7**3) / 4
    assert frechet.kernel_distance(a, b) == pytest.approx(within - 2 * across)
