# SPDX-License-Identifier: Apache-2.0
"""Ages, dates and times are read in the forms that sources write them in, and told where they cannot be."""

from __future__ import annotations

import json
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from ldae.data.ingest.convert import read_sidecar
from ldae.data.ingest.deidentify import LONGEST_SHIFT, parse_date
from ldae.data.ingest.headers import age_of, dicom_facts, dicom_flags, sidecar_facts, sidecar_flags

AGE_FLAG = ["age in a form that is not known"]
TIME_FLAG = ["times in the sidecar are not in seconds"]


@pytest.mark.parametrize(
    ("told", "age"),
    [
        (72, 72),
        (72.5, 72.5),
        ("72", 72),
        ("72.5", 72.5),
        ("72,5", 72.5),
        ("71 years", 71),
        ("71 Years old", 71),
        ("71y", 71),
        ("71 Jahre", 71),
        ("89+", 89),
        ("90+", 90),
        ("045Y", 45),
        ("018M", 1.5),
        ("72M", None),
        ("60+", None),
        ("seventy", None),
        ("60-65", None),
        ("", None),
        (float("nan"), None),
        (None, None),
        ({}, None),
    ],
)
def test_ages_are_read_in_any_usual_form(told: Any, age: float | None) -> None:
    assert age_of(told) == age


@pytest.mark.parametrize(
    ("told", "age", "flags"),
    [
        ("045Y", 45, []),
        ("45", None, AGE_FLAG),
        ("about 45", None, AGE_FLAG),
        ("", None, []),
        (None, None, []),
    ],
)
def test_an_age_in_dicom_needs_its_unit(told: str | None, age: float | None, flags: list[str]) -> None:
    dataset = {"PatientAge": told}
    assert dicom_facts(dataset)["age"] == age
    assert dicom_flags(dataset) == flags


@pytest.mark.parametrize(
    ("told", "age", "flags"),
    [("045Y", 45, []), (45, 45, []), ("old", None, AGE_FLAG), ("n/a", None, []), (None, None, [])],
)
def test_an_age_in_a_sidecar_is_read_or_told(told: Any, age: float | None, flags: list[str]) -> None:
    sidecar = {"PatientAge": told}
    assert sidecar_facts(sidecar)["age"] == age
    assert sidecar_flags(sidecar) == flags


@pytest.mark.parametrize(
    ("sidecar", "times", "flags"),
    [
        ({"RepetitionTime": 2.3, "EchoTime": 0.003, "InversionTime": 0.9}, [2300, 3, 900], []),
        ({"RepetitionTime": 2300, "EchoTime": 2.98}, [None, None, None], TIME_FLAG),
        ({"InversionTime": 900}, [None, None, None], TIME_FLAG),
        ({"EchoTime": 2.98}, [None, None, None], TIME_FLAG),
        ({}, [None, None, None], []),
    ],
)
def test_times_in_milliseconds_are_not_taken_for_seconds(
    sidecar: dict[str, float], times: list[float | None], flags: list[str]
) -> None:
    facts = sidecar_facts(sidecar)
    assert [facts[name] for name in ("tr_ms", "te_ms", "ti_ms")] == times
    assert sidecar_flags(sidecar) == flags


@pytest.mark.parametrize(
    "text",
    [
        "20190614",
        "20190614.0",
        "2019-06-14",
        "2019/06/14",
        "2019.06.14",
        " 2019-06-14T10:15:30.123",
        "2019-06-14 10:15",
        "20190614T101530",
        "20190614101530",
        "20190614101530.123456+0100",
        "201906141015",
    ],
)
def test_dates_are_read_in_any_usual_form(text: str) -> None:
    assert parse_date(text) == date(2019, 6, 14)


@pytest.mark.parametrize(
    "text",
    [
        "0001-01-01",
        "18991231",
        "99991231",
        "20190231",
        "20191301",
        "14.06.2019",
        "12/03/2021",
        "2019061",
        "",
        "201906141",
        "2019-06.14",
        "2019",
        "unknown",
    ],
)
def test_no_date_is_guessed(text: str) -> None:
    assert parse_date(text) is None


def test_every_date_that_is_read_can_be_shifted() -> None:
    first = parse_date("19000101")
    assert first is not None
    assert first - timedelta(days=LONGEST_SHIFT) < first


def test_sidecars_of_a_dataset_hold_for_the_files_below_them(tmp_path: Path) -> None:
    scan = tmp_path / "sub-01" / "anat" / "sub-01_acq-x_T1w.nii.gz"
    scan.parent.mkdir(parents=True)
    for path, told in (
        (tmp_path / "T1w.json", {"Manufacturer": "Siemens", "RepetitionTime": 1, "EchoTime": 0.001}),
        (tmp_path / "acq-y_T1w.json", {"Manufacturer": "GE"}),
        (tmp_path / "T2w.json", {"Manufacturer": "Philips"}),
        (tmp_path / "sub-01" / "sub-01_T1w.json", {"RepetitionTime": 2, "EchoTime": 0.002}),
        (scan.with_name("sub-01_acq-x_T1w.json"), {"EchoTime": 0.003}),
    ):
        path.write_text(json.dumps(told))
    assert read_sidecar(scan) == {"Manufacturer": "Siemens", "RepetitionTime": 2, "EchoTime": 0.003}
