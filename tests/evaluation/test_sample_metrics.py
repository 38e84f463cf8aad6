# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.linalg import sqrtm

from ldae.errors import InputError
from ldae.evaluation.bootstrap import Bootstrap
from ldae.evaluation.code_gaussian import draw_gaussian
from ldae.evaluation.sample_metrics import frechet_distance, kernel_distance, nearest, precision_recall

FEW = Bootstrap(resamples=50)


def normal(seed: int, *shape: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=shape)


def test_kid_is_the_mean_over_pairs() -> None:
    x, y = normal(0, 7, 3), normal(1, 5, 3) + 0.5

    def kernel(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
        return float((a @ b / 3 + 1) ** 3)

    def among(part: NDArray[np.float64]) -> float:
        pairs = [kernel(a, b) for i, a in enumerate(part) for j, b in enumerate(part) if i != j]
        return float(np.mean(pairs))

    expected = among(x) + among(y) - 2 * np.mean([kernel(a, b) for a in x for b in y])
    assert kernel_distance(x, y, bootstrap=FEW)[0] == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_kid_is_unbiased(shift: float) -> None:
    """In one dimension (x y + 1)^3 compares the first three moments, with weights 3, 3 and 1."""
    moments = [(shift, 0), (shift**2 + 1, 1), (shift**3 + 3 * shift, 0)]
    exact = sum(weight * (a - b) ** 2 for weight, (a, b) in zip((3, 3, 1), moments, strict=True))
    found = [
        kernel_distance(
            normal(2 * seed, 20, 1), normal(2 * seed + 1, 20, 1) + shift, bootstrap=Bootstrap(resamples=2)
        )[0]
        for seed in range(400)
    ]
    assert np.mean(found) == pytest.approx(exact, abs=3.5 * np.std(found) / np.sqrt(len(found)))


def test_the_interval_of_kid_holds_what_it_estimates() -> None:
    hits = 0
    for seed in range(60):
        low, high = kernel_distance(
            normal(2 * seed, 60, 1), normal(2 * seed + 1, 60, 1) + 1, bootstrap=Bootstrap(resamples=200)
        )[1]
        hits += low <= 22 <= high
    assert hits >= 48


def exactly(mean: NDArray[np.float64], covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Forty numbers of this very mean and covariance."""
    raw = normal(3, 40, len(mean))
    raw = (raw - raw.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(raw, rowvar=False))).T
    return np.asarray(raw @ np.linalg.cholesky(covariance).T + mean)


def test_fid_in_closed_form() -> None:
    one = exactly(np.zeros(3), np.diag([1.0, 4, 9]))
    other = exactly(np.array([1.0, 2, 0]), np.diag([4.0, 4, 1]))
    # sum of (difference of means)^2 and (difference of standard deviations)^2
    assert frechet_distance(one, other) == pytest.approx(1 + 4 + 1 + 0 + 4, rel=1e-9)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-9)


def test_fid_of_covariances_that_do_not_commute() -> None:
    mixing = normal(4, 3, 3)
    first, second = mixing @ mixing.T + np.eye(3), np.diag([1.0, 2, 5])
    expected = np.trace(first + second - 2 * sqrtm(first @ second).real)
    found = frechet_distance(exactly(np.zeros(3), first), exactly(np.zeros(3), second))
    assert found == pytest.approx(expected, rel=1e-8)


def test_precision_and_recall_by_their_definition() -> None:
    real, drawn = normal(5, 30, 2), normal(6, 25, 2) + 1.5

    def radius(part: NDArray[np.float64], place: int) -> float:
        return float(np.sort(np.linalg.norm(part - part[place], axis=1))[3])

    def within(point: NDArray[np.float64], part: NDArray[np.float64]) -> bool:
        return any(np.linalg.norm(point - part[i]) <= radius(part, i) for i in range(len(part)))

    inside, covered = precision_recall(real, drawn)
    assert inside.tolist() == [within(point, real) for point in drawn]
    assert covered.tolist() == [within(point, drawn) for point in real]
    assert 0 < inside.mean() < 1
    assert 0 < covered.mean() < 1


def test_a_dropped_kind_costs_recall_and_an_invented_one_precision() -> None:
    left, right, nowhere = normal(7, 40, 2), normal(8, 40, 2) + 50, normal(9, 40, 2) - 50
    inside, covered = precision_recall(np.concatenate([left, right]), normal(10, 80, 2))
    assert inside.mean() > 0.9
    assert covered[:40].mean() > 0.9
    assert not covered[40:].any()
    inside, _ = precision_recall(left, np.concatenate([normal(11, 40, 2), nowhere]))
    assert inside[:40].mean() > 0.9
    assert not inside[40:].any()


def test_nearest() -> None:
    distances, places = nearest(np.array([[0.0, 0], [3, 4]]), np.array([[9.0, 9], [0, 1], [3, 3]]))
    np.testing.assert_allclose(distances, [1, 1])
    assert places.tolist() == [1, 2]


def test_too_few_scans_are_refused() -> None:
    with pytest.raises(InputError, match="must hold at least 4 each, got 3 and 9"):
        precision_recall(normal(0, 3, 2), normal(1, 9, 2))
    with pytest.raises(InputError, match="must hold at least 2 each, got 5 and 1"):
        kernel_distance(normal(0, 5, 2), normal(1, 1, 2))


def test_the_gaussian_of_each_class() -> None:
    mixing = normal(12, 4, 4)
    codes = np.concatenate([normal(13, 500, 4) @ mixing + 5, 0.5 * normal(14, 300, 4)])
    known = ["AD"] * 500 + ["CN"] * 300
    wanted = ["CN", "AD"] * 4000
    drawn = draw_gaussian(codes, known, wanted=wanted, seed=0)
    for name, members in (("AD", codes[:500]), ("CN", codes[500:])):
        found = drawn[[one == name for one in wanted]]
        np.testing.assert_allclose(found.mean(0), members.mean(0), atol=0.15)
        np.testing.assert_allclose(np.cov(found.T), np.cov(members.T), atol=0.3)
    anyone = draw_gaussian(codes, known, wanted=[None] * 4000, seed=0)
    np.testing.assert_allclose(anyone.mean(0), codes.mean(0), atol=0.2)
    with pytest.raises(InputError, match="Class MCI must have at least 2 training codes, got 0"):
        draw_gaussian(codes, known, wanted=["MCI"], seed=0)
