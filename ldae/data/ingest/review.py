# SPDX-License-Identifier: Apache-2.0
"""The page on which a person accepts and rejects scans, and what comes back from it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ldae import __version__
from ldae.data.artefact import atomic_path
from ldae.data.ingest.manifest import Record, RejectionError, Work
from ldae.data.table import read_table
from ldae.errors import InputError

PAGE = "review.html"
COLUMNS = ("item", "content", "decision", "comment", "reviewer")
DECISIONS = ("accept", "reject", "")
FIGURES = {
    "snr": ("SNR", "signal of the brighter tissue over the noise in air"),
    "cnr": ("CNR", "contrast of the two tissue levels over the noise in air"),
    "cut": ("FOV cut", "largest share of tissue on a face of the field of view"),
    "volume_ml": ("volume, ml", "of the head or brain"),
    "efc": ("EFC", "entropy focus criterion: grows with motion and blur"),
}


@dataclass(frozen=True)
class Review:
    """One reviewer's file.

    Attributes:
        path: The file.
        decisions: accept or reject by item and beginning of its content's hash.
    """

    path: Path
    decisions: dict[tuple[str, str], str]


def read_review(path: Path) -> Review:
    """Read a review.csv.

    Raises:
        FileNotFoundError: There is no such file.
        InputError: It is not one that the page wrote.
    """
    if not path.is_file():
        raise FileNotFoundError(f"A review must be a CSV file of the review page, got {path}.")
    table = read_table(path)
    if not set(COLUMNS) <= set(table.header):
        raise InputError(
            f"A review must have the columns {', '.join(COLUMNS)}, got {table.header} in {path}."
        )
    words = table.column("decision")
    if unknown := sorted(set(words) - set(DECISIONS)):
        raise InputError(f"decision must be accept, reject or empty, got {unknown} in {path}.")
    pairs = zip(table.column("item"), table.column("content"), strict=True)
    return Review(path, {pair: word for pair, word in zip(pairs, words, strict=True) if word})


def apply_reviews(records: Sequence[Record], reviews: Sequence[Review]) -> dict[str, Any]:
    """Reject what any reviewer rejected, in place.

    Returns:
        applied, unknown (decisions on items that are no longer there or have changed) and, for two files,
        agreement, see `agreement`.
    """
    present = {(record.item, record.content[:16]): record for record in records if record.accepted}
    applied: set[tuple[str, str]] = set()
    unknown = 0
    for review in reviews:
        for scan, word in review.decisions.items():
            record = present.get(scan)
            if record is None:
                unknown += 1
                continue
            applied.add(scan)
            if word == "reject" and record.accepted:
                record.reject(RejectionError("review", "rejected by a reviewer"))
            elif record.accepted:
                record.step = "review"
    result: dict[str, Any] = {"applied": len(applied), "unknown": unknown}
    if len(reviews) == 2:
        result["agreement"] = agreement(reviews[0], reviews[1])
    return result


def agreement(first: Review, second: Review) -> dict[str, Any]:
    """How far two reviewers agree on the scans that both judged: share, and kappa (Cohen, 1960)."""
    both = sorted(first.decisions.keys() & second.decisions.keys())
    pairs = [(first.decisions[scan], second.decisions[scan]) for scan in both]
    count = len(pairs)
    if not count:
        return {"scans": 0, "share": None, "kappa": None, "disagree": []}
    share = sum(a == b for a, b in pairs) / count
    one, two = (sum(pair[side] == "accept" for pair in pairs) / count for side in (0, 1))
    chance = one * two + (1 - one) * (1 - two)
    kappa = None if chance == 1 else round((share - chance) / (1 - chance), 4)
    differ = [scan[0] for scan, (a, b) in zip(both, pairs, strict=True) if a != b]
    return {"scans": count, "share": round(share, 4), "kappa": kappa, "disagree": differ}


def write_page(records: Sequence[Record], out: Path) -> Path:
    """Write review.html, which needs no other file; scans that reviewers rejected stay on it."""
    work = Work(out)
    shown = [record for record in records if record.accepted or record.step == "review"]
    shown.sort(key=lambda record: (not record.flags, record.subject, record.session))
    scans = [_entry(record, work) for record in shown]
    environment = Environment(
        loader=PackageLoader("ldae.data.ingest", "."), autoescape=True, undefined=StrictUndefined
    )
    text = environment.get_template(PAGE).render(
        scans=scans, columns=COLUMNS, figures=FIGURES, version=__version__, title=out.name
    )
    with atomic_path(out / PAGE) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return out / PAGE


def _entry(record: Record, work: Work) -> dict[str, Any]:
    picture = base64.b64encode(work.mosaic(record.item).read_bytes()).decode("ascii")
    facts = record.facts
    spacing = " x ".join(f"{facts[f'spacing_{axis}_mm']:g}" for axis in "xyz")
    told = [facts["diagnosis"], f"{facts['age']:g} y" if facts["age"] is not None else "", facts["sex"]]
    told += [facts["vendor"], f"{facts['field_strength']:g} T" if facts["field_strength"] else ""]
    return {
        "item": record.item,
        "content": record.content[:16],
        "subject": record.subject,
        "session": record.session,
        "told": [word for word in (*told, f"{spacing} mm") if word],
        "flags": record.flags,
        "quality": record.quality,
        "rejected": not record.accepted,
        "picture": picture,
    }
