# SPDX-License-Identifier: Apache-2.0
"""From a folder of scans to a cohort, step by step over one manifest."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ldae.data.artefact import write_json
from ldae.data.ingest.choose import check_contrast_name
from ldae.data.ingest.clinical import Dataset, read_clinical, read_dataset
from ldae.data.ingest.deidentify import Pseudonyms, draw_key, open_key, read_key, write_key
from ldae.data.ingest.discover import DAY, Found, Item, discover
from ldae.data.ingest.labels import Vocabulary, read_vocabulary
from ldae.data.ingest.manifest import MANIFEST, Record, RejectionError, Work, count_reasons, write_manifest
from ldae.data.ingest.match import match
from ldae.data.ingest.pool import each
from ldae.data.ingest.publish import count_faces, publish
from ldae.data.ingest.quality import flag_outliers
from ldae.data.ingest.review import FIGURES, apply_reviews, keep_reviews, rejected_items, write_page
from ldae.data.ingest.steps import Rules, run_item
from ldae.data.ingest.tables import FACES, NO_FACES
from ldae.data.split import SPLITS
from ldae.data.table import read_table
from ldae.errors import InputError

SUMMARY = "summary.json"


@dataclass
class Summary:
    """What an ingest did.

    Attributes:
        cohort: cohort.csv, or None where nothing was accepted.
        page: review.html.
        found: Items.
        accepted: Items in the cohort.
        rejected: Items left out, by reason.
        ignored: Files that are neither DICOM images nor NIfTI.
        closed: Folders that cannot be read.
        gone: Items of an earlier run that are no longer in the source, and were taken out.
        subjects: How many subjects the cohort has.
        flagged: Accepted items that a person should look at.
        faces: Accepted items that show more than a brain.
        split: Subjects by part of the split; empty where none was drawn.
        review: What the reviewers' files did, see `apply_reviews`.
        key: The key file.
    """

    cohort: Path | None
    page: Path
    found: int
    accepted: int
    rejected: dict[str, int]
    ignored: int
    closed: int
    gone: int
    subjects: int
    flagged: int
    faces: int
    split: dict[str, int]
    key: Path
    review: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form, without paths outside of the cohort's folder."""
        names = (
            "found",
            "accepted",
            "rejected",
            "ignored",
            "closed",
            "gone",
            "subjects",
            "flagged",
            "faces",
            "split",
            "review",
        )
        return {name: getattr(self, name) for name in names}


def default_key(out: Path) -> Path:
    """Where the key lies unless told otherwise: beside the cohort's folder."""
    out = Path(os.path.abspath(out))
    return out.with_name(f"{out.name}.key.json")


def ingest(
    source: str | Path,
    out: str | Path,
    *,
    key: str | Path | None = None,
    contrast: str = "T1w",
    clinical: str | Path | None = None,
    vocabulary: str | Path | None = None,
    subject: str | None = None,
    window: int = 180,
    min_slices: int = 40,
    keep_labels: bool = False,
    reviews: Sequence[str | Path] = (),
    seed: int = 0,
    jobs: int = 1,
    progress: bool = False,
) -> Summary:
    """Turn a folder of DICOM files, a BIDS dataset or NIfTI files into a cohort.

    What was done before with the same files and rules is not done again, and an interrupted run goes on.
    The source is only read.

    Args:
        source: The folder.
        out: The cohort's folder.
        key: Key file of the pseudonyms, made if missing; beside `out` by default.
        contrast: T1w, T2w or FLAIR.
        clinical: Table of clinical visits; in a BIDS dataset it comes before the dataset's own tables.
        vocabulary: Words of diagnoses; the package's own by default.
        subject: Regular expression that finds the subject in the place of a NIfTI file, see `discover`.
        window: Most days between a scan and its clinical visit.
        min_slices: Fewest slices of a scan.
        keep_labels: Keep subjects' and sessions' labels, for sources that have pseudonyms already.
        reviews: Files of the review page, one or two reviewers'. They are kept and hold for later runs.
        seed: Seed of the split. Subjects that were in it once keep their part whatever the seed.
        jobs: Processes.
        progress: Show bars.

    Raises:
        InputError: Source, key or a table are not what they must be, or `out` holds something else or a
            cohort of another key or contrast.
        FileNotFoundError: A table does not exist.
    """
    source, out = Path(source), Path(out)
    check_contrast_name(contrast)
    if not source.is_dir():
        raise InputError(f"The source must be a folder of DICOM or NIfTI files, got {source}.")
    if Path(os.path.realpath(source)).is_relative_to(os.path.realpath(out)):
        raise InputError(f"The source must not lie in the cohort's folder, got {source} in {out}.")
    key = default_key(out) if key is None else Path(key)
    words = read_vocabulary(None if vocabulary is None else Path(vocabulary))
    fresh = not os.path.lexists(key)
    names = draw_key(key, out=out, keep=keep_labels) if fresh else open_key(key, out=out, keep=keep_labels)
    found = discover(source, names=names, subject=subject, progress=progress)
    dataset = _tables(source, clinical, bids=found.bids, names=names, vocabulary=words)
    labels = "kept" if keep_labels else "pseudonyms"
    asked = {"verb": "ingest", "contrast": contrast, "key": names.item("key"), "choice of labels": labels}
    Work(out).check(asked)
    if fresh:
        write_key(key, {"secret": names.secret.hex()})
    Work(out).claim(asked)
    kept = keep_reviews(Work(out).reviews, reviews)
    rules = Rules(out, names, contrast, min_slices, words, _dates(source, found, times=dataset.times))
    Work(out).sweep()
    gone = Work(out).forget({item.name for item in found.items})
    records = each(
        partial(run_item, rules=rules), found.items, jobs=jobs, lost=_lost, name="scans", progress=progress
    )
    write_manifest(records, out / MANIFEST)
    guessed = {item.name for item in found.items if item.guessed}
    unwanted = rejected_items(records, kept)
    match(records, dataset.visits, window=window, keep=keep_labels, guessed=guessed, unwanted=unwanted)
    _flag(records)
    _flag_broken(records, source, items=found.items, broken=dataset.broken)
    review = apply_reviews(records, kept)
    cohort = publish(records, out, contrast=contrast, seed=seed)
    faces = count_faces(records)
    shown = [record for record in records if record.accepted or record.step == "review"]
    page = write_page(shown, out, figures=FIGURES, note=FACES if faces else NO_FACES)
    write_manifest(records, out / MANIFEST)
    _note_key(key, source, items=found.items, records=records)
    summary = _summary(records, found, cohort=cohort, page=page, review=review, key=key, gone=gone)
    write_json(out / SUMMARY, summary.to_dict())
    return summary


def _tables(
    source: Path, clinical: str | Path | None, *, bids: bool, names: Pseudonyms, vocabulary: Vocabulary
) -> Dataset:
    given = [] if clinical is None else read_clinical(Path(clinical), names=names, vocabulary=vocabulary)
    if not bids:
        return Dataset(given)
    return read_dataset(source, names=names, vocabulary=vocabulary, clinical=given)


def _dates(source: Path, found: Found, *, times: Mapping[str, str]) -> dict[str, str]:
    """Acquisition times by item: of scans.tsv, else the date in the name of a folder."""
    dates = {item.name: item.visit for item in found.items if item.guessed and DAY.fullmatch(item.visit)}
    places = {
        item.name: item.paths[0].relative_to(source).as_posix() for item in found.items if item.kind == "bids"
    }
    return dates | {name: times[place] for name, place in places.items() if place in times}


def _lost(item: Item) -> Record:
    record = Record(item=item.name, source=item.kind, files=len(item.paths))
    record.reject(RejectionError("extract", "failed: its process died"))
    return record


def _flag(records: Sequence[Record]) -> None:
    taken = sorted((record for record in records if record.accepted), key=lambda record: record.item)
    spacings = [tuple(record.facts[f"spacing_{axis}_mm"] for axis in "xyz") for record in taken]
    for record, flags in zip(taken, flag_outliers([r.quality for r in taken], spacings), strict=True):
        record.flags += flags


def _flag_broken(
    records: Sequence[Record], source: Path, *, items: Sequence[Item], broken: Collection[str]
) -> None:
    """Tell of tables that say nothing of a scan because they cannot be read."""
    folders = {item.name: item.paths[0].relative_to(source).parents for item in items if item.kind == "bids"}
    for record in records:
        if record.accepted and any(folder.as_posix() in broken for folder in folders.get(record.item, ())):
            record.flags.append("sessions.tsv or scans.tsv cannot be read")


def _note_key(key: Path, source: Path, *, items: Sequence[Item], records: Sequence[Record]) -> None:
    """Tell in the key file, and only there, which item came from where and what went wrong with it."""
    details = {record.item: record.detail for record in records}
    document = read_key(key)
    scans = dict(document.get("scans", {}))
    subjects = {record.item: record.subject for record in records if record.subject}
    for item in items:
        earlier = scans.get(item.name, {}).get("detail", "") if item.name not in subjects else ""
        scans[item.name] = {"source": str(item.paths[0]), "detail": details[item.name] or earlier}
    for name, subject in subjects.items():
        scans[name]["subject"] = subject
    changed = {**document, "scans": scans}
    if changed != document:
        write_key(key, changed)


def _split_sizes(cohort: Path | None) -> dict[str, int]:
    table = None if cohort is None else read_table(cohort)
    if table is None or "split" not in table.header:
        return {}
    parts = dict(zip(table.column("subject"), table.column("split"), strict=True))
    return {word: sum(part == word for part in parts.values()) for word in SPLITS}


def _summary(
    records: Sequence[Record],
    found: Found,
    *,
    cohort: Path | None,
    page: Path,
    review: dict[str, Any],
    key: Path,
    gone: int,
) -> Summary:
    taken = [record for record in records if record.accepted]
    return Summary(
        cohort=cohort,
        page=page,
        found=len(records),
        accepted=len(taken),
        rejected=count_reasons(records),
        ignored=found.ignored,
        closed=found.closed,
        gone=gone,
        subjects=len({record.subject for record in taken}),
        flagged=sum(bool(record.flags) for record in taken),
        faces=count_faces(taken),
        split=_split_sizes(cohort),
        review=review,
        key=key,
    )
