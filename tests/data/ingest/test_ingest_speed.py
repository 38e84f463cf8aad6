# SPDX-License-Identifier: Apache-2.0
"""How long an ingest takes, in time of the processors, so that what else runs does not count."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("pydicom", reason="the extra `dicom` is not installed")

from dicom_series import Export, head, oblique, write_series

from ldae.data.ingest import ingest

SERIES = 20
CORES = 2
MOST_SECONDS = 120


@pytest.mark.slow
def test_twenty_series_take_less_than_two_minutes_on_two_cores(tmp_path: Path) -> None:
    for number in range(SERIES):
        voxels = head((96, 128, 128), seed=number)
        export = Export(elements={"PatientID": f"patient {number}"})
        write_series(tmp_path / "in" / str(number), voxels, oblique(), export=export)
    before = os.times()
    summary = ingest(tmp_path / "in", tmp_path / "out", jobs=CORES)
    after = os.times()
    assert summary.accepted == SERIES
    spent = sum(after[:4]) - sum(before[:4])
    print(f"{spent:.1f} processor seconds, {after.elapsed - before.elapsed:.1f} s")
    assert spent / CORES < MOST_SECONDS
