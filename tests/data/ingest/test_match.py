# SPDX-License-Identifier: Apache-2.0
"""Which visit tells of which scan, and what is said where none does."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import pytest

from ldae.data.ingest.clinical import Visit, read_clinical
from ldae.data.ingest.deidentify import Pseudonyms
from ldae.data.ingest.labels import Label, read_vocabulary
from ldae.data.ingest.manifest import Record
from ldae.data.ingest.match import match
from ldae.errors import InputError

DAY = date(2011, 5, 20)
NAMES = Pseudonyms(b"a key for tests")


def scan(item: str = "a", *, days: int | None = 0, visit: str = "", subject: str = "sub-1") -> Record:
    when = "" if days is None else (DAY + timedelta(days)).isoformat()
    facts = {"date": when, "age": None, "sex": "", "header_diagnosis": "", "header_words": ""}
    facts |= dict.fromkeys(("spacing_x_mm", "spacing_y_mm", "spacing_z_mm"), 1.0)
    record = Record(item, "dicom", 1, subject=subject, visit=visit, content=item, facts=facts)
    record.quality = {"snr": 10.0}
    return record


def visit(diagnosis: str = "", *, days: int | None = 0, session: str = "", age: float | None = None) -> Visit:
    when = None if days is None else DAY + timedelta(days)
    return Visit("sub-1", session, when, Label(diagnosis, diagnosis.lower()), age, "")


def matched(record: Record, *visits: Visit, window: int = 100) -> Record:
    match([record], visits, window=window, keep=False)
    return record


def test_the_nearest_visit_that_tells_a_diagnosis_counts() -> None:
    found = matched(scan(), visit(days=3, age=70), visit("MCI", days=-40, age=69.9), visit("AD", days=60))
    assert (found.facts["diagnosis"], found.facts["visit_days"], found.facts["age"]) == ("MCI", -40, 69.9)
    assert not found.flags


@pytest.mark.parametrize(("window", "diagnosis", "flags"), [(40, "AD", 0), (39, "", 1)])
def test_a_visit_outside_of_the_window_does_not(window: int, diagnosis: str, flags: int) -> None:
    found = matched(scan(), visit("AD", days=40), window=window)
    assert found.facts["diagnosis"] == diagnosis
    assert found.flags == ["no clinical visit within the window"][:flags]


def test_equally_near_visits_that_differ_are_a_conflict() -> None:
    found = matched(scan(), visit("AD", days=-9), visit("MCI", days=9))
    assert (found.facts["diagnosis"], found.facts["diagnosis_source"]) == ("", "")
    assert found.flags == ["conflicting diagnoses"]


def test_a_label_of_the_same_session_comes_before_dates() -> None:
    found = matched(scan(visit="m12"), visit("CN", days=0, session="bl"), visit("AD", days=90, session="m12"))
    assert (found.facts["diagnosis"], found.facts["visit_days"]) == ("AD", 90)


def test_undated_visits_years_apart_give_no_age() -> None:
    found = matched(scan(), visit("CN", days=None, age=70), visit("CN", days=None, age=74))
    assert (found.facts["diagnosis"], found.facts["age"]) == ("CN", None)
    assert found.flags == ["several ages, and no date to choose by"]
    assert matched(scan(), visit(days=None, age=70), visit(days=None, age=70.5)).facts["age"] == 70


def test_a_subject_that_the_table_does_not_have_is_told() -> None:
    other = scan(subject="sub-2")
    assert matched(other, visit("CN")).flags == ["subject is not in the clinical table"]
    assert not matched(scan(), visit("CN")).flags


def test_kept_labels_and_counted_ones_never_meet() -> None:
    scans = [scan("a", visit=""), scan("b", visit="1", days=9)]
    match(scans, [], window=1, keep=True)
    assert sorted(record.session for record in scans) == ["ses-1", "ses-2"]


def test_the_table_is_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "visits.csv"
    path.write_text("Patient_ID,Date,DX,report\nx,20190312,Parkinson,\ny,2019-03-12,,normal cognition\n")
    first, second = read_clinical(path, names=NAMES, vocabulary=read_vocabulary())
    assert first.label == Label("", unknown=True)
    assert second.label == Label("CN", "normal cognition")
    assert first.when == date(2019, 3, 12) + NAMES.shift(first.subject)
    told = matched(scan(), Visit("sub-1", "", DAY, first.label, None, ""))
    assert told.flags == ["diagnosis in words that the vocabulary does not know"]
    path.write_text("patient_id,date\nx,2019-03-12\ny,03/12/2019\n")
    with pytest.raises(InputError, match=r"date must be written like 2019-03-12 .* in row 3 of") as error:
        read_clinical(path, names=NAMES, vocabulary=read_vocabulary())
    assert "03/12/2019" not in str(error.value)


def test_a_scan_without_a_date_says_that_its_visit_may_be_far() -> None:
    found = matched(scan(days=None), visit("AD"))
    assert found.facts["diagnosis"] == "AD"
    assert found.flags == ["diagnosis of a visit whose distance is unknown, as the scan has no date"]
    assert not matched(scan(days=None), visit("AD", days=None)).flags


@pytest.mark.parametrize(("age", "flags"), [(71.9, 0), (76, 1)])
def test_ages_of_two_people_are_told(age: float, flags: int) -> None:
    record = scan()
    record.facts["age"] = 70.0
    found = matched(record, visit("AD", age=age))
    assert found.flags == ["age differs between header and table"][:flags]
    assert found.facts["age"] == 70


def test_a_label_of_the_same_session_far_away_does_not_count() -> None:
    found = matched(scan(visit="1"), visit("AD", days=-3287, session="1"), window=180)
    assert (found.facts["diagnosis"], found.facts["visit_days"]) == ("", None)
    assert found.flags == ["no clinical visit within the window"]


def test_a_whole_head_comes_before_its_stripped_copy() -> None:
    head, brain = scan("a"), scan("b")
    brain.facts["brain_extracted"], brain.quality = True, {"snr": 1e6}
    match([head, brain], [], window=1, keep=False)
    assert (head.accepted, brain.reason) == (True, "another scan of the visit was taken")


def test_a_copy_beside_its_series_does_not_take_the_patient_along() -> None:
    series, copy = scan("b"), scan("a", subject="sub-2")
    series.content = copy.content = "same"
    match([series, copy], [], window=1, keep=False, guessed={"a"})
    assert (series.accepted, copy.reason) == (True, "duplicate of another item")
    both = [scan("a"), scan("b", subject="sub-2")]
    both[0].content = both[1].content = "same"
    match(both, [], window=1, keep=False, guessed={"a", "b"})
    assert {record.reason for record in both} == {"same image under several subjects"}


@pytest.mark.parametrize(
    ("births", "sexes", "flags"),
    [
        (("x", "y"), ("M", "M"), ["several birth dates under one identifier: perhaps several people"]),
        (("x", ""), ("M", "F"), ["several sexes under one identifier: perhaps several people"]),
        (("x", ""), ("M", ""), []),
    ],
)
def test_two_people_under_one_identifier_are_told(births, sexes, flags: list[str]) -> None:
    scans = [scan("a"), scan("b", days=9)]
    for record, birth, sex in zip(scans, births, sexes, strict=True):
        record.facts |= {"birth": birth, "sex": sex}
    match(scans, [], window=1, keep=False)
    assert [record.flags for record in scans] == [flags, flags]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("subject,date,dx\nx,2019-06-20,AD,Atrophie\n", r"row 2 must have 3 cells as the header has, got 4"),
        (
            "subject;date;dx\nx;2019-06-20;AD\n",
            r"must have its cells set apart by commas, got a line with none of them in",
        ),
        ("subject,date\nx,0001-01-01\n", r"date must be written like 2019-03-12 .* in row 2 of"),
    ],
)
def test_no_row_of_a_table_is_lost(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "visits.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_clinical(path, names=NAMES, vocabulary=read_vocabulary())


def test_ages_are_read_or_told_of(tmp_path: Path) -> None:
    path = tmp_path / "visits.csv"
    path.write_text('subject,age\na,"72,5"\nb,71 years\nc,89+\nd,n/a\ne,old\nf,852\n')
    visits = read_clinical(path, names=NAMES, vocabulary=read_vocabulary())
    assert [visit.age for visit in visits] == [72.5, 71, 89, None, None, None]
    assert [visit.odd_age for visit in visits] == [False] * 4 + [True, True]
    told = matched(scan(), Visit("sub-1", "", DAY, Label(""), None, "", odd_age=True))
    assert told.flags == ["age in a form that is not known"]


def test_a_scan_that_is_named_t1w_comes_before_one_that_only_looks_so() -> None:
    named, finer = scan("a"), scan("b")
    finer.facts["spacing_x_mm"] = 0.5
    finer.flags = ["contrast told by header values only"]
    match([named, finer], [], window=100, keep=False)
    assert named.accepted
    assert finer.reason == "another scan of the visit was taken"


def test_another_run_takes_the_place_of_one_that_a_reviewer_rejected() -> None:
    runs = [scan("a"), scan("b")]
    runs[1].quality["snr"] = 5.0
    match(runs, [], window=100, keep=False, unwanted={"a"})
    assert (runs[0].step, runs[0].reason) == ("review", "rejected by a reviewer")
    assert runs[1].accepted
    alone = scan("a")
    match([alone], [], window=100, keep=False, unwanted={"a"})
    assert alone.accepted  # its session keeps its number; the review takes it out afterwards
