# SPDX-License-Identifier: Apache-2.0
"""Clinical visits of a table or a BIDS dataset, under pseudonyms and with shifted dates from the start."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from itertools import chain
from pathlib import Path

from ldae.data.bids import AGE_COLUMNS, DIAGNOSIS_COLUMNS
from ldae.data.ingest.deidentify import Pseudonyms, parse_date
from ldae.data.ingest.headers import age_of, capped_age, sex_letter
from ldae.data.ingest.labels import Label, Vocabulary
from ldae.data.ingest.manifest import RejectionError
from ldae.data.table import Table, is_missing, read_whole_table
from ldae.errors import InputError

TABLE = "A table of visits"
SUBJECT_COLUMNS = ("subject", "participant_id", "patient_id", "patientid", "subject_id", "ptid")
SESSION_COLUMNS = ("session", "session_id", "visit")
DATE_COLUMNS = ("date", "visit_date", "exam_date", "examdate", "acq_time")
REPORT_COLUMNS = ("report", "text", "findings", "conclusion")
SEX_COLUMNS = ("sex", "gender")


@dataclass(frozen=True)
class Visit:
    """What is known of a subject at a time.

    Attributes:
        subject: Pseudonym.
        session: The source's own label, "" if none.
        when: Shifted date, if known.
        label: Diagnosis.
        age: Years, if known.
        sex: M, F, O or "".
        odd_age: Whether an age is told that cannot be read.
    """

    subject: str
    session: str
    when: date | None
    label: Label
    age: float | None
    sex: str
    odd_age: bool = False


@dataclass(frozen=True)
class Dataset:
    """What the tables of a BIDS dataset tell.

    Attributes:
        visits: Visits.
        times: Acquisition times by the scans' places in the dataset.
        broken: Folders, by place in the dataset, with a table that cannot be read.
    """

    visits: list[Visit] = field(default_factory=list)
    times: dict[str, str] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)


def read_clinical(path: Path, *, names: Pseudonyms, vocabulary: Vocabulary) -> list[Visit]:
    """Every visit of a CSV or TSV.

    Columns, in any case: the subject as the scans name it (subject, participant_id, patient_id, ...), and
    any of session, date, diagnosis (dx, group), report (free text), age, sex.

    Raises:
        FileNotFoundError: There is no such file.
        InputError: It has no subject column, a row of another length, or a date that cannot be read.
    """
    table = read_whole_table(path, what=TABLE)
    lower = {name.lower(): name for name in table.header}
    if not any(name in lower for name in SUBJECT_COLUMNS):
        raise InputError(
            # names of columns are not quoted: without a header line they are the first patient's
            f"A clinical table must have a column of {', '.join(SUBJECT_COLUMNS)}, "
            f"got {len(table.header)} columns of other names in {path}. The first line must hold the names."
        )
    visits = (_visit(row, place, names=names, vocabulary=vocabulary) for row, place in _rows(table, path))
    return [visit for visit in visits if visit is not None]


def _rows(table: Table, path: Path) -> Iterator[tuple[dict[str, str], str]]:
    """Every row by its columns' names in lower case, and where it stands."""
    for line, cells in zip(table.lines, table.rows, strict=True):
        yield dict(zip(map(str.lower, table.header), cells, strict=True)), f"row {line} of {path}"


def _visit(row: Mapping[str, str], place: str, *, names: Pseudonyms, vocabulary: Vocabulary) -> Visit | None:
    original = _cell(row, SUBJECT_COLUMNS).removeprefix("sub-")
    try:
        subject = names.subject(original)
    except RejectionError:
        return None
    day = _cell(row, DATE_COLUMNS)
    when = parse_date(day)
    if day and when is None:
        # the value is not quoted: it may tell who it is
        raise InputError(f"A date must be written like 2019-03-12 or 20190312, got another form in {place}.")
    age = _cell(row, AGE_COLUMNS)
    return Visit(
        subject=subject,
        session=_cell(row, SESSION_COLUMNS).removeprefix("ses-"),
        when=None if when is None else when + names.shift(subject),
        label=_label(row, vocabulary),
        age=capped_age(age_of(age)),
        sex=sex_letter(_cell(row, SEX_COLUMNS)),
        odd_age=bool(age) and capped_age(age_of(age)) is None,
    )


def _label(row: Mapping[str, str], vocabulary: Vocabulary) -> Label:
    """The diagnosis column's label, held against the report's."""
    words = _cell(row, DIAGNOSIS_COLUMNS)
    told = vocabulary.read(words)
    written = vocabulary.read(_cell(row, REPORT_COLUMNS))
    if told.diagnosis and written.diagnosis and told.diagnosis != written.diagnosis:
        return Label("", f"{told.matched}, {written.matched}", conflict=True)
    if told.diagnosis or told.conflict:
        return told
    return replace(written, unknown=bool(words) and not written.diagnosis)


def _cell(row: Mapping[str, str], columns: tuple[str, ...]) -> str:
    found = (row[name].strip() for name in columns if name in row and not is_missing(row[name]))
    return next(found, "")


def read_dataset(
    root: Path, *, names: Pseudonyms, vocabulary: Vocabulary, clinical: Sequence[Visit] = ()
) -> Dataset:
    """Visits of a BIDS dataset: participants.tsv, sessions.tsv and the dates of scans.tsv.

    Args:
        root: The dataset.
        names: Pseudonyms.
        vocabulary: Words of diagnoses.
        clinical: Visits of a table beside the dataset, which participants.tsv fills up.

    Raises:
        InputError: participants.tsv cannot be read; of other tables `broken` tells.
    """
    people = root / "participants.tsv"
    base = read_clinical(people, names=names, vocabulary=vocabulary) if people.is_file() else []
    known = {visit.subject: visit for visit in base}
    told = {visit.subject for visit in clinical}
    found = Dataset([visit for visit in base if visit.subject not in told])
    found.visits.extend(_filled(visit, known.get(visit.subject)) for visit in clinical)
    for path in sorted(chain(root.glob("sub-*/sub-*_sessions.tsv"), root.glob("sessions.tsv"))):
        try:
            rows = [(dict(row), place) for row, place in _rows(read_whole_table(path, what=TABLE), path)]
            visits = [
                _visit({"participant_id": path.parent.name} | row, place, names=names, vocabulary=vocabulary)
                for row, place in rows
            ]
        except InputError:
            found.broken.add(path.parent.relative_to(root).as_posix())
            continue
        found.visits.extend(_filled(visit, known.get(visit.subject)) for visit in visits if visit is not None)
    _read_times(root, found)
    return found


def _filled(visit: Visit, person: Visit | None) -> Visit:
    """A session with what participants.tsv adds."""
    if person is None:
        return visit
    label = visit.label if visit.label.diagnosis or visit.label.conflict else person.label
    age = person.age if visit.age is None else visit.age
    return replace(visit, label=label, age=age, sex=visit.sex or person.sex)


def _read_times(root: Path, found: Dataset) -> None:
    for path in sorted(chain(root.glob("sub-*/*_scans.tsv"), root.glob("sub-*/ses-*/*_scans.tsv"))):
        folder = path.parent.relative_to(root)
        try:
            table = read_whole_table(path, what=TABLE)
        except InputError:
            found.broken.add(folder.as_posix())
            continue
        if {"filename", "acq_time"} <= set(table.header):
            for name, when in zip(table.column("filename"), table.column("acq_time"), strict=True):
                found.times[(folder / name).as_posix()] = when
