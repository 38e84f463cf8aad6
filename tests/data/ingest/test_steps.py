# SPDX-License-Identifier: Apache-2.0
"""What the steps note of an item: keyed digests, flags of what cannot be read, and when it is noted again."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import nibabel as nib
import pytest

pytest.importorskip("pydicom", reason="the extra `dicom` is not installed")

from dicom_series import Export, amend, head, straight, write_report, write_series
from pydicom.config import disable_value_validation
from pydicom.uid import BasicTextSRStorage

from ldae.data.ingest.deidentify import Pseudonyms
from ldae.data.ingest.discover import discover
from ldae.data.ingest.labels import Vocabulary
from ldae.data.ingest.manifest import Record
from ldae.data.ingest.steps import Rules, run_item

NAMES = Pseudonyms(b"a key for tests")
VOXELS = head()
WORDS = Vocabulary({"AD": ("alzheimer",)}, negation=(), negation_after=())
AGE_FLAG, DATE_FLAG = "age in a form that is not known", "date in a form that is not known"


def noted(source: Path, *, vocabulary: Vocabulary = WORDS, date: str = "") -> Record:
    """The record of a source's only item."""
    (item,) = discover(source, names=NAMES).items
    dates = {item.name: date} if date else {}
    rules = Rules(source.with_name("out"), NAMES, "T1w", 20, vocabulary, dates)
    record = run_item(item, rules)
    assert record.accepted, record
    return record


@pytest.mark.parametrize(
    ("elements", "date", "flags"),
    [
        ({}, "2019.06.14", []),
        ({"PatientAge": "45"}, "20190614", [AGE_FLAG]),
        ({"PatientAge": "45", "PatientBirthDate": ""}, "", [AGE_FLAG]),
        ({}, "14.06.2019", [DATE_FLAG]),
        ({"SeriesDate": "20190614"}, "14.06.2019", []),
        ({"PatientBirthDate": "00010101"}, "00010101", [DATE_FLAG]),
    ],
)
def test_what_a_header_tells_in_no_known_form_is_flagged(
    tmp_path: Path, elements: dict[str, str], date: str, flags: list[str]
) -> None:
    with disable_value_validation():
        write_series(tmp_path / "in", VOXELS, straight(), export=Export(date=date, elements=elements))
    record = noted(tmp_path / "in")
    assert record.flags == flags
    assert bool(record.facts["date"]) == (DATE_FLAG not in flags and bool(date))


@pytest.mark.parametrize(
    ("scans", "sidecar", "flags"),
    [
        ("", {"AcquisitionDateTime": "20190312101530"}, []),
        ("", {"AcquisitionDateTime": "12 March"}, [DATE_FLAG]),
        ("12/03/2021", {}, [DATE_FLAG]),
        ("n/a", {"AcquisitionDateTime": "2019-03-12"}, []),
        ("12/03/2021", {"PatientAge": "old", "AcquisitionDateTime": "2019-03-12"}, [AGE_FLAG]),
        ("", {"RepetitionTime": 2300}, ["times in the sidecar are not in seconds"]),
    ],
)
def test_what_a_sidecar_tells_in_no_known_form_is_flagged(
    tmp_path: Path, scans: str, sidecar: dict[str, object], flags: list[str]
) -> None:
    scan = tmp_path / "in" / "sub-01" / "anat" / "sub-01_T1w.nii"
    scan.parent.mkdir(parents=True)
    nib.save(nib.Nifti1Image(VOXELS, straight()), scan)
    scan.with_suffix(".json").write_text(json.dumps(sidecar))
    assert noted(tmp_path / "in", date=scans).flags == flags


def test_birth_dates_are_noted_as_keyed_digests(tmp_path: Path) -> None:
    digests = []
    for number, birth in enumerate(("19470312", "1947.03.12", "19470313", "")):
        with disable_value_validation():
            export = Export(elements={"PatientBirthDate": birth})
            write_series(tmp_path / f"{number}" / "in", VOXELS, straight(), export=export)
        digests.append(noted(tmp_path / f"{number}" / "in").facts["birth"])
    assert digests[0] == digests[1] == NAMES.digest("birth", "1947-03-12").hex()[:16]
    assert digests[2] not in ("", digests[0])
    assert digests[3] == ""


def test_headers_are_read_of_an_image_not_of_a_report(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "in", VOXELS, straight(), export=Export())
    report = tmp_path / "in" / "A first"
    write_report(paths[0], report, kind=BasicTextSRStorage)
    amend([report], Manufacturer="Reporting Ltd")
    assert noted(tmp_path / "in").facts["vendor"] == "Siemens"


@pytest.mark.parametrize("field", ["negation", "negation_after"])
def test_other_words_that_deny_are_used_on_what_is_kept(tmp_path: Path, field: str) -> None:
    text = "kein Alzheimer" if field == "negation" else "Alzheimer, kein"
    elements = {"AdmittingDiagnosesDescription": text}
    write_series(tmp_path / "in", VOXELS, straight(), export=Export(elements=elements))
    assert noted(tmp_path / "in").facts["header_diagnosis"] == "AD"
    stricter = dataclasses.replace(WORDS, **{field: ("kein",)})
    assert noted(tmp_path / "in", vocabulary=stricter).facts["header_diagnosis"] == ""
