# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ldae.evaluation.localisation import localisation_table, localise

SIZE = (4, 4, 4)


@pytest.fixture
def brain() -> np.ndarray:
    inside = np.ones(SIZE, dtype=bool)
    inside[0] = False
    return inside


@pytest.fixture
def changed(brain: np.ndarray) -> np.ndarray:
    """A quarter of the brain."""
    where = np.zeros(SIZE, dtype=bool)
    where[1:, 0] = True
    return where


def test_a_map_of_the_changed_voxels_finds_them(brain: np.ndarray, changed: np.ndarray) -> None:
    maps = {"right": -2.0 * changed, "even": np.ones(SIZE), "wrong": 1.0 * ~changed}
    right, even, wrong = localise(maps, brain=brain, reference="right", changed=changed)
    assert (right["agreement"], right["auc"], right["concentration"]) == pytest.approx((1, 1, 4))
    assert (even["agreement"], even["auc"], even["concentration"]) == pytest.approx((0, 0.5, 1))
    assert (wrong["agreement"], wrong["auc"], wrong["concentration"]) == pytest.approx((-1, 0, 0))


def test_outside_of_the_brain_nothing_counts(brain: np.ndarray, changed: np.ndarray) -> None:
    random = np.random.default_rng(0)
    plain, loud = random.normal(size=SIZE), np.zeros(SIZE)
    loud[0] = 100
    first, second = (
        localise({"a": values, "b": changed.astype(float)}, brain=brain, reference="b", changed=changed)[0]
        for values in (plain, plain + loud)
    )
    assert first == second


def test_without_truth_there_is_agreement_only(brain: np.ndarray) -> None:
    (row,) = localise({"a": np.arange(64.0).reshape(SIZE)}, brain=brain, reference="a")
    assert row == {"map": "a", "agreement": pytest.approx(1)}


def test_the_table_has_means_over_scans_in_order() -> None:
    rows = pd.DataFrame(
        [
            {"subject": name, "map": one, "agreement": value, "auc": auc}
            for name, value, auc in (("s1", 0.0, np.nan), ("s2", 0.5, 0.6), ("s3", 1.0, 0.8))
            for one in ("b", "a")
        ]
    )
    table = localisation_table(rows, names=["a", "b"])
    assert table["map"].tolist() == ["a", "b"]
    assert table["agreement"].tolist() == pytest.approx([0.5, 0.5])
    assert table["auc"].tolist() == pytest.approx([0.7, 0.7])
    assert (table["agreement_low"] <= table["agreement"]).all()
