# SPDX-License-Identifier: Apache-2.0
"""Cohorts in the Brain Imaging Data Structure: participants.tsv, sessions.tsv and anat/*_T1w.nii[.gz]."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from ldae.data.table import Fault, Table, is_missing, read_table
from ldae.errors import InputError

logger = logging.getLogger(__name__)

# Names under which the two labels are looked for, first one first, in sessions.tsv before participants.tsv.
AGE_COLUMNS = ("age",)
DIAGNOSIS_COLUMNS = ("diagnosis", "dx", "group")
# The session of a subject whose scans lie without a ses- folder.
ONLY_SESSION = "1"
KEYS = ("participant_id", "session_id")

Record = dict[str, str]


def is_bids(path: Path) -> bool:
    """Whether a path is a folder (taken for BIDS) or its participants.tsv."""
    return path.is_dir() or path.name == "participants.tsv"


def read_bids(path: Path) -> Table:
    """One row a T1-weighted scan, with the columns of a cohort CSV.

    Subjects and sessions keep their full labels (sub-01, ses-2); scans without a session folder get session
    "1". Labels come from a subject's sub-XX_sessions.tsv or a sessions.tsv at the root, else from
    participants.tsv: age from `age`, diagnosis from `diagnosis`, `dx` or `group` (names in any case). Further
    columns are carried through.

    Raises:
        FileNotFoundError: There is no participants.tsv.
        InputError: There is no scan, or a table cannot be read.
    """
    root = path if path.is_dir() else path.parent
    participants = read_table(root / "participants.tsv")
    if "participant_id" not in participants.header:
        raise InputError(
            f"participants.tsv must have a column participant_id, got {participants.header} in {root}. "
            "Its columns are separated by tabs."
        )
    known = {row["participant_id"].strip(): (line, row) for line, row in _records(participants)}
    sessions, faults = _sessions(root)
    rows: list[tuple[int | None, Record]] = []
    for subject, session, scan in _scans(root):
        line, labels = known.get(subject, (None, {}))
        visit = sessions.get((subject, session), {})
        merged = {**labels, **{name: cell for name, cell in visit.items() if not is_missing(cell)}}
        rows.append(
            (line, {"subject": subject, "session": session, "path": os.path.abspath(scan), **_labels(merged)})
        )
    if not rows:
        raise InputError(
            f"A BIDS folder must hold sub-*/[ses-*/]anat/*_T1w.nii.gz, got none in {root}. "
            "Check the folder, or list the scans in a CSV."
        )
    _report_gaps(root, known, {row["subject"] for _, row in rows})
    return _as_table(rows, [*participants.faults, *faults])


def _records(table: Table) -> Iterator[tuple[int, Record]]:
    for line, cells in zip(table.lines, table.rows, strict=True):
        yield line, dict(zip(table.header, cells, strict=True))


def _scans(root: Path) -> Iterator[tuple[str, str, Path]]:
    """Subject, session and path of every T1-weighted scan, in natural order of the folders' names."""
    for folder in sorted([*root.glob("sub-*/anat"), *root.glob("sub-*/ses-*/anat")]):
        subject, *visit, _ = folder.relative_to(root).parts
        for scan in sorted([*folder.glob("*_T1w.nii"), *folder.glob("*_T1w.nii.gz")]):
            yield subject, visit[0] if visit else ONLY_SESSION, scan


def _sessions(root: Path) -> tuple[dict[tuple[str, str], Record], list[Fault]]:
    """Labels by subject and session, from the root's table and the subjects' own."""
    found: dict[tuple[str, str], Record] = {}
    faults: list[Fault] = []
    for path in [*sorted(root.glob("sessions.tsv")), *sorted(root.glob("sub-*/sub-*_sessions.tsv"))]:
        table = read_table(path)
        name = str(path.relative_to(root))
        faults += [Fault(fault.row, fault.column, fault.message, name) for fault in table.faults]
        if "session_id" not in table.header or (path.parent == root and "participant_id" not in table.header):
            faults.append(
                Fault(1, "session_id", "must name the session (and participant_id the subject)", name)
            )
            continue
        for _, row in _records(table):
            subject = row.get("participant_id", path.parent.name).strip()
            found[subject, row["session_id"].strip()] = row
    return found, faults


def _labels(merged: Mapping[str, str]) -> Record:
    """Age and diagnosis under the cohort's names, and whatever else the tables hold."""
    lower = {name.lower(): name for name in merged}
    taken: dict[str, str] = {}
    for target, names in (("diagnosis", DIAGNOSIS_COLUMNS), ("age", AGE_COLUMNS)):
        name = next((lower[name] for name in names if name in lower), None)
        taken[target] = "" if name is None or is_missing(merged[name]) else merged[name]
    reserved = {*KEYS, "subject", "session", "path", *(lower[name] for name in taken if name in lower)}
    return {**taken, **{name: cell for name, cell in merged.items() if name not in reserved}}


def _report_gaps(root: Path, known: Mapping[str, object], scanned: set[str]) -> None:
    if absent := sorted(set(known) - scanned):
        logger.warning(
            "%d participants of %s have no T1w scan and are left out: %s", len(absent), root, absent[:10]
        )
    if unlisted := sorted(scanned - set(known)):
        logger.warning(
            "%d subjects of %s are not in participants.tsv and have no labels: %s. Add them there.",
            len(unlisted),
            root,
            unlisted[:10],
        )


def _as_table(rows: list[tuple[int | None, Record]], faults: list[Fault]) -> Table:
    header = list(dict.fromkeys(name for _, row in rows for name in row))
    table = Table.of(header, ((line or 0, [row.get(name, "") for name in header]) for line, row in rows))
    return replace(table, faults=faults)
