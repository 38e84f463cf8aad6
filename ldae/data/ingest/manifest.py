# SPDX-License-Identifier: Apache-2.0
"""The manifest: a row an item, how far it came, whether it was taken, and why not."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from ldae import __version__
from ldae.data.artefact import atomic_path, read_json, sha256_json, write_json
from ldae.errors import InputError

MANIFEST = "manifest.csv"
WORK = ".ingest"
# Counts up whenever a step notes more or other things than before.
FORMAT = 6

Step = Literal["extract", "analyse", "process", "match", "review", "preprocess"]
REVIEWED: tuple[Step, str] = ("review", "rejected by a reviewer")


class RejectionError(Exception):
    """An item that is left out.

    Args:
        step: Where it fell out.
        reason: Why, in words that quote nothing of the source, since they are published.
        detail: More, possibly naming files or persons; it goes into the key file only.
    """

    def __init__(self, step: Step, reason: str, *, detail: str = "") -> None:
        super().__init__(step, reason, detail)
        self.step, self.reason, self.detail = step, reason, detail


@dataclass
class Record:
    """One item as the steps leave it; nothing in it tells who it is.

    Attributes:
        item: Keyed hash of the series' UID, or of the file's place in the source.
        source: dicom, bids or nifti.
        files: How many files it was made of.
        step: The last step it went through, or fell out of.
        reason: Why it was rejected; empty while it is accepted.
        subject: Pseudonym.
        visit: The source's own label of the visit, which may be a date; never written here.
        session: Session it was given.
        content: sha256 of the voxels in RAS order.
        flags: What a person should look at.
        facts: Columns that the headers gave: vendor, spacing, age, shifted date and the like.
        quality: Figures of the image.
        detail: What must not be published; never written here.
    """

    item: str
    source: str
    files: int
    step: Step = "extract"
    reason: str = ""
    subject: str = ""
    visit: str = ""
    session: str = ""
    content: str = ""
    flags: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    quality: dict[str, float] = field(default_factory=dict)
    detail: str = ""

    @property
    def accepted(self) -> bool:
        """Whether it is still in."""
        return not self.reason

    def reject(self, error: RejectionError) -> None:
        """Take it out."""
        self.step, self.reason, self.detail = error.step, error.reason, error.detail


class Work:
    """Results of the steps in the cohort's folder, each with the key of what it was made from."""

    def __init__(self, out: Path) -> None:
        self.root = out / WORK

    @property
    def claimed(self) -> Path:
        """Where it is kept what the folder is for."""
        return self.root / "folder.json"

    @property
    def reviews(self) -> Path:
        """Where reviewers' files are kept."""
        return self.root / "reviews"

    @property
    def split(self) -> Path:
        """Where the split of all subjects that ever were in the cohort is kept."""
        return self.root / "split.json"

    def volume(self, item: str) -> Path:
        """Where an item's converted scan lies."""
        return self.root / "volumes" / f"{item}.nii.gz"

    def mosaic(self, item: str) -> Path:
        """Where an item's picture lies."""
        return self.root / "mosaics" / f"{item}.jpg"

    def scratch(self, item: str) -> Path:
        """Where what an item needs in passing lies: de-identified slices, transforms."""
        return self.root / "scratch" / item

    def check(self, asked: Mapping[str, str]) -> None:
        """Stop unless the folder is new, empty, or was claimed for the same.

        Args:
            asked: What must be the same in every run, by the words in which a person knows it.

        Raises:
            InputError: Something else lies there, or it was claimed for other things.
        """
        out = self.root.parent
        strange = sorted(path.name for path in out.glob("*") if path.name != ".lock")
        if strange and not self.root.is_dir():
            raise InputError(
                f"The results' folder must be empty or one that the same command wrote before, got {out} "
                f"with {strange[0]} in it. Choose another --out."
            )
        kept = read_json(self.claimed) if self.claimed.is_file() else asked
        for name, value in asked.items():
            if kept.get(name) != value:
                raise InputError(
                    f"{out} was written with another {name}, and going on would replace what lies there. "
                    f"Give the same {name} as before, or choose another --out."
                )

    def claim(self, asked: Mapping[str, str]) -> None:
        """The same, and claim the folder.

        Raises:
            InputError: As `check`.
        """
        self.check(asked)
        if not self.claimed.is_file():
            write_json(self.claimed, dict(asked))

    def forget(self, present: Collection[str]) -> int:
        """Remove what was made of items that are not there any more; how many they were."""
        gone = set()
        for step in ("extract", "analyse", "process", "preprocess", "volumes", "mosaics", "brains"):
            for path in sorted((self.root / step).glob("*")):
                name = path.name.split(".")[0]
                if name and name not in present:
                    gone.add(name)
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        return len(gone)

    def sweep(self) -> None:
        """Remove what a killed run left half written."""
        shutil.rmtree(self.root / "scratch", ignore_errors=True)
        for path in self.root.parent.rglob(".partial-*"):
            path.unlink()

    def cached(
        self, step: str, item: str, *, key: Any, compute: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """A step's result, computed only where what it depends on has changed.

        Args:
            step: Name of the step.
            item: The item.
            key: Everything the result depends on, JSON-able.
            compute: Makes the result, JSON-able, after whatever files it writes.
        """
        path = self.root / step / f"{item}.json"
        digest = sha256_json([__version__, FORMAT, step, key])
        if path.is_file():
            try:
                document = json.loads(path.read_text(encoding="utf-8"))
            except ValueError:
                document = {}
            if document.get("key") == digest:
                kept: dict[str, Any] = document["result"]
                return kept
        result = compute()
        write_json(path, {"key": digest, "result": result})
        return result


def write_manifest(records: Iterable[Record], path: Path) -> None:
    """Write one row an item, sorted, atomically."""
    rows = []
    for record in sorted(records, key=lambda record: record.item):
        row = asdict(record)
        state = "accepted" if record.accepted else "rejected"
        names = ("item", "source", "files", "content", "step")
        rows.append(
            {name: row[name] for name in names}
            | {"state": state, "reason": record.reason}
            | {"subject": record.subject, "session": record.session, "flags": "; ".join(record.flags)}
        )
    with atomic_path(path) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)


def count_reasons(records: Iterable[Record]) -> dict[str, int]:
    """How many were rejected for which reason, most frequent first."""
    counts = Counter(record.reason for record in records if not record.accepted)
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))
