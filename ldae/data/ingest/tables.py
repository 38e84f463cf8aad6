# SPDX-License-Identifier: Apache-2.0
"""What makes a folder a BIDS derivative: its description, its people and their sessions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from ldae import __version__
from ldae.data.artefact import atomic_path, write_json

BIDS_VERSION = "1.10.0"
# Our own files beside those that BIDS knows.
OTHER_FILES = ("cohort.csv", "manifest.csv", "preprocess.csv", "summary.json", "review.html")
PEOPLE = {"sex": {"Description": "sex", "Levels": {"M": "male", "F": "female", "O": "other"}}}
SESSIONS = {
    "age": {"Description": "age at the session; 90 stands for 90 and above", "Units": "year"},
    "diagnosis": {"Description": "diagnosis at the session, by the rules of the vocabulary"},
    "acq_time": {"Description": "day of the scan, shifted by a number of days that is constant by subject"},
}
FACES = "The scans show whole heads, and a face rebuilt from them tells who it is. Treat them as identifying."
NO_FACES = "The scans show brains without faces."


def write_tables(frame: pd.DataFrame, out: Path, *, verb: str, faces: int) -> None:
    """Write dataset_description.json, README, participants.tsv and every subject's sessions.tsv.

    Args:
        frame: One row a scan with subject and session, perhaps sex, age, diagnosis and date; labels carry
            their prefixes.
        out: The folder.
        verb: What made it.
        faces: How many scans show a face.
    """
    _describe(out, verb=verb, faces=faces)
    subjects = dict(tuple(frame.groupby("subject", sort=False))) if len(frame) else {}
    people = [{"participant_id": name, "sex": _cell(rows.iloc[0], "sex")} for name, rows in subjects.items()]
    _write_tsv(people, ("participant_id", "sex"), path=out / "participants.tsv", words=PEOPLE)
    for name, rows in subjects.items():
        visits = [_session(row) for _, row in rows.iterrows()]
        path = out / name / f"{name}_sessions.tsv"
        _write_tsv(visits, ("session_id", *SESSIONS), path=path, words=SESSIONS)
    for path in (*out.glob("sub-*/sub-*_sessions.tsv"), *out.glob("sub-*/sub-*_sessions.json")):
        if path.parent.name not in subjects:
            path.unlink()
            if not any(path.parent.iterdir()):
                path.parent.rmdir()


def _describe(out: Path, *, verb: str, faces: int) -> None:
    document = {"Name": out.name, "BIDSVersion": BIDS_VERSION, "DatasetType": "derivative"}
    made = [{"Name": f"ldae {verb}", "Version": __version__}]
    write_json(out / "dataset_description.json", {**document, "GeneratedBy": made})
    note = f"Made by ldae {verb} {__version__}. {FACES if faces else NO_FACES}\n"
    for name, text in (("README", note), (".bidsignore", "\n".join(OTHER_FILES) + "\n")):
        with atomic_path(out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _session(row: pd.Series[Any]) -> dict[str, Any]:
    date = _cell(row, "date")
    return {
        "session_id": row["session"],
        "age": _cell(row, "age"),
        "diagnosis": _cell(row, "diagnosis"),
        "acq_time": None if date is None else f"{date}T00:00:00",  # BIDS wants a time with the day
    }


def _cell(row: pd.Series[Any], name: str) -> Any:
    value = row.get(name)
    return None if value is None or pd.isna(value) or value == "" else value


def _write_tsv(
    rows: list[dict[str, Any]], columns: tuple[str, ...], *, path: Path, words: dict[str, Any]
) -> None:
    """A table with its dictionary."""
    with atomic_path(path) as temporary:
        pd.DataFrame(rows, columns=list(columns)).to_csv(temporary, sep="\t", index=False, na_rep="n/a")
    write_json(path.with_suffix(".json"), words)
