# SPDX-License-Identifier: Apache-2.0
"""The page on which a person accepts and rejects scans, and what comes back from it."""

from __future__ import annotations

import base64
import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from ldae.data.artefact import atomic_path
from ldae.data.ingest.manifest import REVIEWED, Record, RejectionError, Work
from ldae.data.table import read_whole_table
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
MOST_REVIEWERS = 2


@dataclass(frozen=True)
class Review:
    """What one reviewer decided.

    Attributes:
        name: The reviewer's name, as the page has it; empty for none.
        rows: Rows of review.csv by item and beginning of its content's hash, those with a decision.
    """

    name: str
    rows: dict[tuple[str, str], tuple[str, ...]]

    @property
    def decisions(self) -> dict[tuple[str, str], str]:
        """accept or reject."""
        return {scan: row[COLUMNS.index("decision")] for scan, row in self.rows.items()}


def read_review(path: Path) -> Review:
    """Read a review.csv.

    Raises:
        FileNotFoundError: There is no such file.
        InputError: It is not one that the page wrote, or it decides twice on a scan, each time otherwise.
    """
    table = read_whole_table(path, what="A review")
    if not set(COLUMNS) <= set(table.header):
        raise InputError(f"A review must have the columns {', '.join(COLUMNS)}, got others in {path}.")
    words = table.column("decision")
    if unknown := [line for line, word in zip(table.lines, words, strict=True) if word not in DECISIONS]:
        raise InputError(
            f"decision must be accept, reject or empty, got another word in row {unknown[0]} of {path}."
        )
    rows: dict[tuple[str, str], tuple[str, ...]] = {}
    places = [table.header.index(name) for name in COLUMNS]
    for cells, word in zip(table.rows, words, strict=True):
        row = tuple(cells[place] for place in places)
        scan = (row[0], row[1])
        if word and rows.setdefault(scan, row)[COLUMNS.index("decision")] != word:
            raise InputError(
                f"A review must decide once on a scan, got both words for {row[0]} in {path}. Keep one row."
            )
    names = sorted({row[-1].strip() for row in rows.values()} - {""})
    return Review(", ".join(names), rows)


def keep_reviews(folder: Path, given: Sequence[str | Path]) -> list[Review]:
    """All decisions that hold: those kept from earlier commands and those given, which are then kept too.

    The later decision of the same reviewer on a scan counts. A reviewer is told by name, and two given files
    without names are two people.

    Raises:
        FileNotFoundError: There is no such file.
        InputError: It is not one that the page wrote, or there are too many.
    """
    if len(given) > MOST_REVIEWERS:
        raise InputError(f"There must be one or two reviewers' files, got {len(given)}. Join some of them.")
    paths = sorted(folder.glob("*.csv"), key=lambda path: int(path.stem))
    reviews = [read_review(path) for path in paths]
    free = list(range(len(reviews)))
    for path in given:
        new = read_review(Path(path))
        place = next((number for number in free if reviews[number].name == new.name), None)
        if place is None:
            reviews.append(new)
        else:
            free.remove(place)
            reviews[place] = Review(new.name, reviews[place].rows | new.rows)
    for number, review in enumerate(reviews if given else []):
        with (
            atomic_path(folder / f"{number}.csv") as temporary,
            temporary.open("w", encoding="utf-8", newline="") as stream,
        ):
            csv.writer(stream).writerows([COLUMNS, *review.rows.values()])
    return reviews


def rejected_items(records: Sequence[Record], reviews: Sequence[Review]) -> set[str]:
    """Items, as they are now, that a reviewer rejected."""
    words = [review.decisions for review in reviews]
    scans = {record.item: (record.item, record.content[:16]) for record in records if record.content}
    return {item for item, scan in scans.items() if any(word.get(scan) == "reject" for word in words)}


def apply_reviews(records: Sequence[Record], reviews: Sequence[Review]) -> dict[str, Any]:
    """Reject what any reviewer rejected, in place.

    Returns:
        applied, unknown (decisions on items that are no longer there or have changed) and, of two reviewers,
        agreement, see `agreement`.
    """
    present = {(record.item, record.content[:16]): record for record in records if record.content}
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
                record.reject(RejectionError(*REVIEWED))
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


def write_page(
    records: Sequence[Record], out: Path, *, figures: Mapping[str, tuple[str, str]], note: str
) -> Path:
    """Write review.html, which needs no other file.

    Args:
        records: What to show; those with flags come first.
        out: The folder, with the records' pictures below it.
        figures: Heading and meaning of the records' figures.
        note: A sentence for the page's head.
    """
    shown = sorted(records, key=lambda record: (not record.flags, record.subject, record.session))
    # one by one: all pictures at once would take most of the memory
    scans = (_entry(record, Work(out)) for record in shown)
    environment = Environment(
        loader=PackageLoader("ldae.data.ingest", "."), autoescape=True, undefined=StrictUndefined
    )
    page = environment.get_template(PAGE).stream(
        scans=scans, columns=COLUMNS, figures=figures, note=note, title=out.name
    )
    with atomic_path(out / PAGE) as temporary:
        page.dump(str(temporary), encoding="utf-8")
    return out / PAGE


def _entry(record: Record, work: Work) -> dict[str, Any]:
    picture = base64.b64encode(work.mosaic(record.item).read_bytes()).decode("ascii")
    facts = {name: value for name, value in record.facts.items() if not pd.isna(value) and value != ""}
    told = [str(facts[name]) for name in ("diagnosis", "sex", "vendor") if name in facts]
    units = {"age": "y", "field_strength": "T"}
    told += [f"{facts[name]:g} {unit}" for name, unit in units.items() if name in facts]
    spacing = [f"{facts[name]:g}" for axis in "xyz" if (name := f"spacing_{axis}_mm") in facts]
    return {
        "item": record.item,
        "content": record.content[:16],
        "subject": record.subject,
        "session": record.session,
        "told": [*told, f"{' x '.join(spacing)} mm"] if spacing else told,
        "flags": record.flags,
        "quality": record.quality,
        "rejected": not record.accepted,
        "picture": picture,
    }
