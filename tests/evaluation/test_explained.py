# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from ldae.errors import InputError
from ldae.evaluation.explained import share_explained


def names(count: int, *, visits: int = 1) -> list[str]:
    return [f"sub-{number // visits}" for number in range(count)]


def test_a_known_share_is_found() -> None:
    random = np.random.default_rng(0)
    codes = random.normal(size=(400, 6))
    # each target has variance 6 from the code and 14 from noise
    targets = codes @ random.choice([-1.0, 1.0], size=(6, 50)) + 14**0.5 * random.normal(size=(400, 50))
    share, (low, high) = share_explained(codes, targets, subjects=names(400))
    assert share == pytest.approx(0.3, abs=0.03)
    assert low < share < high


def test_more_targets_than_scans_are_rotated_without_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(4)
    codes = random.normal(size=(30, 3))
    targets = codes @ random.normal(size=(3, 90)) + random.normal(size=(30, 90))
    share, interval = share_explained(codes, targets, subjects=names(30))
    monkeypatch.setattr("ldae.evaluation.explained._rotated", lambda same: same)
    plain, same = share_explained(codes, targets, subjects=names(30))
    assert [share, *interval] == pytest.approx([plain, *same])


def test_nothing_is_explained_by_more_numbers_than_scans() -> None:
    random = np.random.default_rng(1)
    codes, targets = random.normal(size=(60, 200)), random.normal(size=(60, 40))
    share, _ = share_explained(codes, targets, subjects=names(60))
    assert abs(share) < 0.05


def test_recognising_a_subject_explains_nothing() -> None:
    random = np.random.default_rng(2)
    # three visits with one code and one target each: only who it is could be told
    codes, targets = (np.repeat(random.normal(size=(30, width)), 3, axis=0) for width in (40, 20))
    share, _ = share_explained(codes, targets, subjects=names(90, visits=3))
    assert share < 0.05
    leaked, _ = share_explained(codes, targets, subjects=names(90))
    assert leaked > 0.5


def test_constant_codes_explain_nothing() -> None:
    targets = np.random.default_rng(3).normal(size=(40, 5))
    share, _ = share_explained(np.ones((40, 3)), targets, subjects=names(40))
    assert share == pytest.approx(0, abs=1e-9)


def test_few_subjects_are_refused() -> None:
    with pytest.raises(InputError, match="at least 5 subjects"):
        share_explained(np.ones((8, 2)), np.ones((8, 2)), subjects=names(8, visits=2))
