# SPDX-License-Identifier: Apache-2.0
"""Conformal sets and intervals keep their promise, also class by class and group by group."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from ldae.errors import InputError
from ldae.heads.conformal import ConformalIntervals, ConformalSets, Score, least_scans

CLASSES = np.array(["CN", "AD"])  # not in the order of names
THREE = np.array(["MCI", "CN", "AD"])
Drawn = tuple[NDArray[np.float64], NDArray[np.str_]]


def draw(rng: np.random.Generator, count: int, classes: NDArray[np.str_] = CLASSES) -> Drawn:
    """Scans of a head that says the true probabilities; the first class is common."""
    logits = 1.5 * rng.standard_normal((count, len(classes))) + np.eye(len(classes))[0]
    said = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    place = (rng.random(count)[:, None] > said.cumsum(axis=1)).sum(axis=1)
    return said, classes[place.clip(max=len(classes) - 1)]


def held(sets: NDArray[np.bool_], truth: NDArray[np.str_], classes: NDArray[np.str_]) -> NDArray[np.bool_]:
    """Whether each set holds the true class."""
    return np.asarray((sets & (truth[:, None] == classes)).any(axis=1))


def test_coverage_over_resamplings_is_the_promised_one() -> None:
    rng, scans = np.random.default_rng(0), 79
    found = []
    for _ in range(200):
        known, new = draw(rng, scans), draw(rng, 200)
        model = ConformalSets().fit(*known, classes=CLASSES)
        found.append(held(model.predict(new[0]), new[1], CLASSES).mean())
    error = np.std(found) / np.sqrt(len(found))
    assert 0.9 - 3 * error < np.mean(found) < 0.9 + 1 / (scans + 1) + 3 * error


def test_sets_of_least_ambiguity_are_those_of_the_quantile() -> None:
    rng = np.random.default_rng(1)
    (said, truth), (new, _) = draw(rng, 60), draw(rng, 500)
    scores = np.sort(1 - said[np.arange(60), np.searchsorted(["AD", "CN"], truth)[:, None].ravel() ^ 1])
    threshold = scores[int(np.ceil(0.9 * 61)) - 1]
    sets = ConformalSets().fit(said, truth, classes=CLASSES).predict(new)
    np.testing.assert_array_equal(sets, 1 - new <= threshold + 1e-9)


def test_a_rare_class_keeps_the_promise_only_class_by_class() -> None:
    rng = np.random.default_rng(2)
    rare = {True: [], False: []}
    for _ in range(40):
        (said, truth), (new, other) = draw(rng, 200), draw(rng, 400)
        # a head that leans to the common class
        said, new = (np.stack([1 - 0.5 * p[:, 1], 0.5 * p[:, 1]], axis=1) for p in (said, new))
        for by_class, found in rare.items():
            model = ConformalSets(by_class=by_class).fit(said, truth, classes=CLASSES)
            found.append(held(model.predict(new), other, CLASSES)[other == "AD"].mean())
    assert np.mean(rare[False]) < 0.85
    assert np.mean(rare[True]) == pytest.approx(0.9, abs=0.02)


@pytest.mark.parametrize(("score", "scans", "scored"), [("aps", 79, 79), ("raps", 150, 135)])
def test_coverage_of_adaptive_sets_is_the_promised_one(score: Score, scans: int, scored: int) -> None:
    """A tenth of the calibration scans of "raps" has no score: its strength is chosen on them."""
    rng, found = np.random.default_rng(3), []
    for _ in range(200):
        known, new = draw(rng, scans, THREE), draw(rng, 200, THREE)
        sets = ConformalSets(score=score).fit(*known, classes=THREE).predict(new[0])
        found.append(held(sets, new[1], THREE).mean())
    error = np.std(found) / np.sqrt(len(found))
    assert 0.9 - 3 * error < np.mean(found) < 0.9 + 1 / (scored + 1) + 3 * error


@pytest.mark.parametrize("score", ["aps", "raps"])
def test_an_adaptive_set_is_no_affair_of_the_batch(score: Score) -> None:
    rng = np.random.default_rng(7)
    known, (new, _) = draw(rng, 150, THREE), draw(rng, 60, THREE)
    model = ConformalSets(score=score).fit(*known, classes=THREE)
    whole = model.predict(new)
    np.testing.assert_array_equal(model.predict(new[::-1])[::-1], whole)
    np.testing.assert_array_equal(np.concatenate([model.predict(row[None]) for row in new]), whole)
    again = ConformalSets(score=score).fit(*known, classes=THREE)
    np.testing.assert_array_equal(again.predict(new * (1 + 1e-13)), whole)
    other = ConformalSets(score=score, random_state=1).fit(*known, classes=THREE)
    assert (other.predict(new) != whole).any()


def test_adaptive_sets_hold_the_classes_down_to_the_quantile() -> None:
    """No class without those more likely, and a class only where they do not add up to the quantile."""
    rng = np.random.default_rng(8)
    known, (new, _) = draw(rng, 300, THREE), draw(rng, 400, THREE)
    sets = ConformalSets(score="aps").fit(*known, classes=THREE).predict(new)
    order = np.argsort(-new, axis=1)
    inside = np.take_along_axis(sets, order, axis=1)
    assert (inside[:, :-1] >= inside[:, 1:]).all()
    sums = np.take_along_axis(new, order, axis=1).cumsum(axis=1)
    before = sums - np.take_along_axis(new, order, axis=1)
    assert 0.8 < before[inside].max() < sums[~inside].min() < 1


def test_groups_each_keep_the_promise() -> None:
    rng = np.random.default_rng(4)
    (said, truth), (new, other) = draw(rng, 2000), draw(rng, 4000)
    sites, places = np.repeat(["a", "b"], 1000), np.repeat(["a", "b"], 2000)
    # at site b the head is overconfident
    sharpen = lambda p, where: np.where((where == "b")[:, None], p**4 / (p**4).sum(1, keepdims=True), p)  # noqa: E731
    said, new = sharpen(said, sites), sharpen(new, places)
    together = held(ConformalSets().fit(said, truth, classes=CLASSES).predict(new), other, CLASSES)
    model = ConformalSets().fit(said, truth, classes=CLASSES, groups=sites)
    apart = held(model.predict(new, groups=places), other, CLASSES)
    assert abs(together[places == "a"].mean() - together[places == "b"].mean()) > 0.05
    for site in ("a", "b"):
        assert apart[places == site].mean() == pytest.approx(0.9, abs=0.03)
    with pytest.raises(InputError, match="got none of c"):
        model.predict(new[:1], groups=["c"])


def test_intervals_hold_the_truth_as_often_as_promised() -> None:
    rng, found = np.random.default_rng(5), []
    for _ in range(200):
        said = 60 + 10 * rng.standard_normal(130)
        truth = said + 3 * rng.standard_normal(130)
        low, high = ConformalIntervals(level=0.9).fit(said[:50], truth[:50]).predict(said[50:]).T
        found.append(((low <= truth[50:]) & (truth[50:] <= high)).mean())
    error = np.std(found) / np.sqrt(len(found))
    assert 0.9 - 3 * error < np.mean(found) < 0.9 + 1 / 51 + 3 * error
    residuals = np.sort(np.abs(truth - said)[:50])
    np.testing.assert_allclose(high - said[50:], residuals[int(np.ceil(0.9 * 51)) - 1])


@pytest.mark.parametrize(("level", "scans"), [(0.9, 11), (0.95, 21), (0.5, 3), (0.99, 101)])
def test_least_number_of_calibration_scans(level: float, scans: int) -> None:
    assert least_scans(level) == scans
    said = np.linspace(40, 80, scans)
    assert np.isfinite(ConformalIntervals(level=level).fit(said, said + 1).predict([50.0])).all()
    with pytest.raises(InputError, match=f"needs at least {scans} calibration scans, got {scans - 1}"):
        ConformalIntervals(level=level).fit(said[1:], said[1:])


def test_bad_input_is_named() -> None:
    said, truth = draw(np.random.default_rng(6), 50)
    with pytest.raises(InputError, match="level must lie between 0 and 1, got 90"):
        ConformalSets(level=90)
    with pytest.raises(InputError, match="score must be lac for two classes, got aps"):
        ConformalSets(score="aps").fit(said, truth, classes=CLASSES)
    with pytest.raises(InputError, match="got none of AD"):
        ConformalSets().fit(said, np.full(50, "CN"), classes=CLASSES)
    with pytest.raises(InputError, match="by_class needs score lac, got raps"):
        ConformalSets(score="raps", by_class=True)
    with pytest.raises(InputError, match="for classes or for groups"):
        ConformalSets(by_class=True).fit(said, truth, classes=CLASSES, groups=truth)
