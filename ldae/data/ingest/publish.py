# SPDX-License-Identifier: Apache-2.0
"""The cohort's folder: scans under BIDS names, sidecars, participants, cohort.csv."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ldae import __version__
from ldae.data.artefact import atomic_path, read_json, write_json
from ldae.data.cohort import DIAGNOSES, write_cohort
from ldae.data.ingest.manifest import Record, Work
from ldae.data.ingest.tables import write_tables
from ldae.data.split import SPLITS, natural_key, split_subjects
from ldae.data.table import read_table

SIDECAR = {"vendor": "Manufacturer", "field_strength": "MagneticFieldStrength"}
SECONDS = {"tr_ms": "RepetitionTime", "te_ms": "EchoTime", "ti_ms": "InversionTime"}
FACTS: tuple[str, ...] = (
    "diagnosis",
    "age",
    "sex",
    "site",
    "date",
    "vendor",
    "field_strength",
    "tr_ms",
    "te_ms",
    "ti_ms",
)
FACTS += ("spacing_x_mm", "spacing_y_mm", "spacing_z_mm", "diagnosis_source", "diagnosis_words", "visit_days")
FACTS += ("brain_extracted",)
COHORT = "cohort.csv"
# A split has four parts, each with a subject at least.
FEWEST_FOR_SPLIT = 4


def scan_name(record: Record, contrast: str) -> str:
    """Place of a scan in the cohort's folder, without suffix."""
    subject, session = record.subject, record.session
    return f"{subject}/{session}/anat/{subject}_{session}_{contrast}"


def publish(records: Sequence[Record], out: Path, *, contrast: str, seed: int) -> Path | None:
    """Lay out the accepted scans and write the cohort's tables.

    Returns:
        cohort.csv, or None where nothing was accepted.

    Raises:
        InputError: cohort.csv lies there already and is no table.
    """
    taken = [record for record in records if record.accepted]
    taken.sort(key=lambda record: (record.subject, natural_key(record.session)))
    remove_stale(out, {scan_name(record, contrast) for record in taken})
    for record in taken:
        _lay(record, out, contrast=contrast)
    frame = pd.DataFrame([_row(record, out, contrast) for record in taken])
    write_tables(frame, out, verb="ingest", faces=count_faces(taken))
    if not taken:
        (out / COHORT).unlink(missing_ok=True)
        return None
    words = keep_split(frame, out, seed=seed)
    write_cohort(frame if words is None else frame.assign(split=words), out / COHORT)
    return out / COHORT


def count_faces(records: Iterable[Record]) -> int:
    """How many accepted scans show more than a brain."""
    return sum(record.accepted and not record.facts["brain_extracted"] for record in records)


def keep_split(frame: pd.DataFrame, out: Path, *, seed: int) -> pd.Series[str] | None:
    """The split, or None where none can be drawn; whoever was in it once keeps its part for good.

    What was trained on the train split must never meet its scans again in the test split, because some scans
    were rejected or others came.
    """
    known = earlier_split(out)
    if not set(frame["diagnosis"]) <= {"", *DIAGNOSES}:
        return None
    if set(frame["subject"]) <= set(known):
        words = frame["subject"].map(known)
    elif frame["subject"].nunique() >= FEWEST_FOR_SPLIT:
        words = split_subjects(frame, seed=seed, known=known)
    else:
        return None
    parts, kept = known | dict(zip(frame["subject"], words, strict=True)), Work(out).split
    if not kept.is_file() or read_json(kept) != parts:
        write_json(kept, parts)
    return words


def earlier_split(out: Path) -> dict[str, str]:
    """Parts of the subjects of earlier runs; the cohort's own table, perhaps split anew, comes first."""
    kept = Work(out).split
    known: dict[str, str] = read_json(kept) if kept.is_file() else {}
    if (out / COHORT).is_file():
        table = read_table(out / COHORT)
        if {"subject", "split"} <= set(table.header):
            known |= dict(zip(table.column("subject"), table.column("split"), strict=True))
    return {subject: word for subject, word in known.items() if word in SPLITS}


def _row(record: Record, out: Path, contrast: str) -> dict[str, Any]:
    facts = record.facts
    first = {"subject": record.subject, "session": record.session}
    first["path"] = str(out / f"{scan_name(record, contrast)}.nii.gz")
    return first | {name: facts[name] for name in FACTS} | record.quality | {"flags": "; ".join(record.flags)}


def _lay(record: Record, out: Path, *, contrast: str) -> None:
    """The converted volume and its sidecar."""
    target = out / f"{scan_name(record, contrast)}.nii.gz"
    link(Work(out).volume(record.item), target)
    facts = record.facts
    sidecar = {SIDECAR[name]: facts[name] for name in SIDECAR if facts[name]}
    sidecar |= {SECONDS[name]: round(facts[name] / 1000, 9) for name in SECONDS if facts[name] is not None}
    sidecar |= {"SkullStripped": facts["brain_extracted"]}
    sidecar |= {"Modality": "MR", "ConversionSoftware": "ldae", "ConversionSoftwareVersion": __version__}
    sidecar |= {"ContentSha256": record.content, "Flags": record.flags, "Quality": record.quality}
    write_json(target.with_name(target.name.replace(".nii.gz", ".json")), sidecar)


def link(source: Path, target: Path) -> None:
    """Put a hard link at the target, or a copy on file systems without."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_file() and os.path.samefile(source, target):
        return
    with atomic_path(target) as temporary:
        temporary.unlink()
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


def remove_stale(out: Path, names: set[str]) -> None:
    """Scans of an earlier run that are no longer in; the folder is ldae's own, see `Work.claim`."""
    for path in sorted(out.glob("sub-*/ses-*/anat/*")):
        place = path.relative_to(out).as_posix()
        if place.removesuffix(".nii.gz").removesuffix(".json") not in names:
            path.unlink()
    for folder in sorted(
        [*out.glob("sub-*/ses-*/anat"), *out.glob("sub-*/ses-*"), *out.glob("sub-*")], reverse=True
    ):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
