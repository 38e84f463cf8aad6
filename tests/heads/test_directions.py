# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from ldae.errors import InputError
from ldae.heads import Direction, LinearProbe, RidgeProbe, find_step, head_output

Setup = tuple[NDArray[np.float64], NDArray[Any], NDArray[np.float64]]


@pytest.fixture(scope="module")
def cohort() -> Setup:
    generator = np.random.default_rng(0)
    codes = generator.standard_normal((300, 6)) * [1, 5, 0.2, 1, 1, 1] + 3
    disease = (codes - 3) @ [1.0, 0.2, 3.0, 0.0, 0.0, 0.0] + 0.7 * generator.standard_normal(300)
    labels = np.array(["CN", "MCI", "AD"])[np.digitize(disease, [-0.6, 0.6])]
    age = 70 + 4 * (codes[:, 3] - 3) + 0.5 * generator.standard_normal(300)
    return codes, labels, age


@pytest.fixture(scope="module")
def ad_probe(cohort: Setup) -> LinearProbe:
    codes, labels, _ = cohort
    known = labels != "MCI"
    return LinearProbe(positive_label="AD", regularisation=(1.0,)).fit(codes[known], labels[known])


def test_whitened_direction_is_steepest(cohort: Setup, ad_probe: LinearProbe) -> None:
    codes, _, _ = cohort
    std = codes.std(axis=0)
    direction = Direction.from_head(ad_probe, std=std)
    assert np.linalg.norm(direction.unit) == pytest.approx(1)
    gain = ad_probe.direction_ @ (direction.unit * std)
    for other in np.random.default_rng(0).standard_normal((50, 6)):
        assert ad_probe.direction_ @ (other / np.linalg.norm(other) * std) <= gain


def test_move_is_whiten_add_unwhiten(cohort: Setup, ad_probe: LinearProbe) -> None:
    codes, _, _ = cohort
    mean, std = codes.mean(axis=0), codes.std(axis=0)
    direction = Direction.from_head(ad_probe, std=std)
    by_hand = ((codes[0] - mean) / std + 1.7 * direction.unit) * std + mean
    np.testing.assert_allclose(direction.move(codes[0], 1.7), by_hand)
    np.testing.assert_allclose(direction.move(codes[0], np.array([0.0, 1.7])), [codes[0], by_hand])


@pytest.mark.parametrize("target", [0.05, 0.2, 0.4, 0.6, 0.8, 0.95])
def test_step_reaches_a_probability(cohort: Setup, ad_probe: LinearProbe, target: float) -> None:
    codes, _, _ = cohort
    direction = Direction.from_head(ad_probe, std=codes.std(axis=0))
    step = find_step(ad_probe, codes[5], direction=direction, target=target)
    reached = head_output(ad_probe, direction.move(codes[5], step)[None])
    assert reached[0] == pytest.approx(target, abs=1e-8)
    logit = np.log(target / (1 - target))
    start = head_output(ad_probe, codes[5:6])[0]
    slope = ad_probe.direction_ @ (direction.unit * direction.std)
    assert step == pytest.approx((logit - np.log(start / (1 - start))) / slope)


def test_target_class_turns_the_question(cohort: Setup, ad_probe: LinearProbe) -> None:
    codes, _, _ = cohort
    std = codes.std(axis=0)
    towards_cn = Direction.from_head(ad_probe, std=std, target_class="CN")
    np.testing.assert_allclose(towards_cn.unit, -Direction.from_head(ad_probe, std=std).unit)
    step = find_step(ad_probe, codes[5], direction=towards_cn, target=0.9, target_class="CN")
    moved = towards_cn.move(codes[5], step)[None]
    assert head_output(ad_probe, moved)[0] == pytest.approx(0.1, abs=1e-8)


def test_three_classes_need_a_target_class(cohort: Setup) -> None:
    codes, labels, _ = cohort
    probe = LinearProbe(regularisation=(1.0,)).fit(codes, labels)
    std = codes.std(axis=0)
    with pytest.raises(InputError, match=r"target_class must be one of .*'AD', 'CN', 'MCI'.*, got none"):
        Direction.from_head(probe, std=std)
    direction = Direction.from_head(probe, std=std, target_class="AD")
    step = find_step(probe, codes[0], direction=direction, target=0.8, target_class="AD")
    reached = probe.predict_proba(direction.move(codes[0], step)[None])
    assert reached[0, 0] == pytest.approx(0.8, abs=1e-8)
    with pytest.raises(InputError, match="got 'FTD'"):
        find_step(probe, codes[0], direction=direction, target=0.8, target_class="FTD")


def test_nearest_of_two_crossings_is_taken(cohort: Setup) -> None:
    # Of three ordered classes the middle one rises and falls along the way: two steps give the same P(MCI).
    codes, labels, _ = cohort
    probe = LinearProbe(regularisation=(1.0,)).fit(codes, labels)
    direction = Direction.from_head(probe, std=codes.std(axis=0), target_class="AD")
    healthy = direction.move(codes[labels == "CN"][0], -3.0)
    step = find_step(probe, healthy, direction=direction, target=0.3, target_class="MCI")
    scan = np.linspace(0, step, 200)[:-1]
    before = head_output(probe, direction.move(healthy, scan), target_class="MCI")
    assert step > 0
    assert (before < 0.3).all()


def test_step_reaches_an_age(cohort: Setup) -> None:
    codes, _, age = cohort
    probe = RidgeProbe(regularisation=(1.0,)).fit(codes, age)
    direction = Direction.from_head(probe, std=codes.std(axis=0))
    step = find_step(probe, codes[0], direction=direction, target=80.0)
    assert probe.predict(direction.move(codes[0], step)[None])[0] == pytest.approx(80.0)
    with pytest.raises(InputError, match="target_class must be left out for RidgeProbe"):
        find_step(probe, codes[0], direction=direction, target=80.0, target_class="AD")


def test_unreachable_target_names_the_range(cohort: Setup) -> None:
    codes, _, age = cohort
    probe = RidgeProbe(regularisation=(1.0,)).fit(codes, age)
    direction = Direction.from_head(probe, std=codes.std(axis=0))
    ends = probe.predict(direction.move(codes[0], np.array([-2.0, 2.0])))
    pattern = rf"between {ends[0]:.4g} and {ends[1]:.4g}.* 2 standard deviations .*got 300"
    with pytest.raises(InputError, match=pattern):
        find_step(probe, codes[0], direction=direction, target=300.0, reach=2)


@pytest.mark.parametrize("target", [0.0, 1.0, -0.2, 1.5, float("nan")])
def test_no_probability_is_refused(cohort: Setup, ad_probe: LinearProbe, target: float) -> None:
    direction = Direction.from_head(ad_probe, std=cohort[0].std(axis=0))
    with pytest.raises(InputError, match="probability above 0 and below 1"):
        find_step(ad_probe, cohort[0][0], direction=direction, target=target)


def test_any_head_with_an_output_will_do() -> None:
    class Parabola:
        direction_ = np.array([1.0, 0.0])

        def predict(self, codes: ArrayLike) -> NDArray[np.float64]:
            return np.asarray(codes)[:, 0] ** 2

    direction = Direction.from_head(Parabola(), std=[2.0, 1.0])
    assert find_step(Parabola(), [1.0, 0.0], direction=direction, target=9.0) == pytest.approx(1.0)
    with pytest.raises(InputError, match=r"between \S+ and 3721"):
        find_step(Parabola(), [1.0, 0.0], direction=direction, target=-1.0)


def test_a_head_that_jumps_cannot_say_what_lies_between() -> None:
    class Stairs:
        direction_ = np.array([1.0])

        def predict(self, codes: ArrayLike) -> NDArray[np.float64]:
            return np.round(np.asarray(codes)[:, 0])

    direction = Direction.from_head(Stairs(), std=[1.0])
    with pytest.raises(InputError, match=r"jumps over it, to [23]\."):
        find_step(Stairs(), [0.0], direction=direction, target=2.5, reach=5)


def test_the_nearer_of_two_ways_is_taken_and_the_present_needs_none() -> None:
    class Valley:
        direction_ = np.array([1.0])

        def predict(self, codes: ArrayLike) -> NDArray[np.float64]:
            return np.abs(np.asarray(codes)[:, 0] - 0.05)

    direction = Direction.from_head(Valley(), std=[1.0])
    for target, step in ((0.15, -0.1), (0.05, 0.0), (0.3, -0.25)):
        assert find_step(Valley(), [0.0], direction=direction, target=target) == pytest.approx(step)


def test_faults_are_named(cohort: Setup, ad_probe: LinearProbe) -> None:
    with pytest.raises(InputError, match=r"one length \[D\], got \(6,\), \(5,\)"):
        Direction.from_gradient(ad_probe.direction_, std=np.ones(5))
    with pytest.raises(InputError, match="finite length above 0"):
        Direction.from_gradient(np.zeros(3), std=np.ones(3))
    direction = Direction.from_head(ad_probe, std=cohort[0].std(axis=0))
    with pytest.raises(InputError, match="Code must be 6 finite numbers"):
        find_step(ad_probe, np.full(6, np.nan), direction=direction, target=0.5)
