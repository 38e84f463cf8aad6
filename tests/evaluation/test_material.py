# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from ldae.errors import InputError
from ldae.evaluation.material import (
    Material,
    ScanSet,
    first_visits,
    open_scans,
    other_subject,
    visit_order,
)


def visits(*pairs: tuple[str, str]) -> pd.DataFrame:
    return pd.DataFrame(pairs, columns=["subject", "session"])


def test_sessions_are_ordered_by_number_and_by_months_where_known() -> None:
    rows = visits(("b", "ses-10"), ("a", "ses-1"), ("b", "ses-2"))
    assert list(visit_order(rows)["session"]) == ["ses-1", "ses-2", "ses-10"]
    assert list(visit_order(rows.assign(visit_months=[0, 0, 12]))["session"]) == ["ses-1", "ses-10", "ses-2"]


def test_first_visits_are_one_a_subject_in_the_order_of_the_rows() -> None:
    rows = visits(("b", "2"), ("a", "1"), ("b", "1"), ("c", "1"))
    assert list(first_visits(rows).index) == [1, 2, 3]


def test_a_larger_limit_adds_subjects() -> None:
    rows = visits(*((f"s{number:02d}", "1") for number in range(30)))
    few, more = (set(first_visits(rows, limit=limit, seed=4)["subject"]) for limit in (5, 12))
    assert len(few) == 5
    assert few < more
    assert few != set(first_visits(rows, limit=5, seed=5)["subject"])


@pytest.mark.parametrize("seed", range(5))
def test_everyone_gets_the_scan_of_somebody_else(seed: int) -> None:
    subjects = np.array(["a", "b", "a", "c", "a", "b", "d"])
    partner = other_subject(list(subjects), seed=seed)
    assert sorted(partner) == list(range(7))
    assert (subjects[partner] != subjects).all()


def test_one_subject_cannot_be_shuffled() -> None:
    with pytest.raises(InputError, match=r"several subjects.*got 2 of 3"):
        other_subject(["a", "a", "b"])


def test_scans_are_those_of_the_split(material: Material, scan_set: ScanSet) -> None:
    assert set(scan_set.rows["split"]) == {"test"}
    assert list(scan_set.rows.index) == list(range(len(scan_set.rows)))
    volumes = scan_set.volumes(scan_set.rows[:2])
    assert volumes.shape == (2, 1, 16, 24, 16)
    assert 0 <= float(volumes.min()) < float(volumes.max()) <= 1
    with pytest.raises(InputError, match=r"split must be one that .* holds, got 'other'"):
        open_scans(replace(material, split="other"))
