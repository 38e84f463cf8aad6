# SPDX-License-Identifier: Apache-2.0
"""De-identification: keyed pseudonyms, shifted dates, the DICOM PS3.15 basic profile, text in the pixels.

The profile is dicom-anonymizer's, with the options Retain Patient Characteristics and Retain Longitudinal
Temporal Information With Modified Dates; private elements are removed.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ldae.data.artefact import clear_partials, partial_prefix
from ldae.data.ingest.extras import need
from ldae.data.ingest.manifest import RejectionError
from ldae.errors import InputError

# Longest shift, about ten years; every subject's lies in the past.
LONGEST_SHIFT = 3650
# Share of the volume's maximum below which a neighbour is dark.
DARK = 0.1
# Voxels that a few letters have at least, the least value they have as a share of the maximum, and how much
# more often it comes than the values next to it.
LETTERS = 40
WRITTEN = 0.3
OFTEN = 5
# 2019-03-12, perhaps with a time, or 20190312, perhaps with hours, minutes and seconds.
DATE = re.compile(r"(\d{4})([-./])(\d{2})\2(\d{2})(?!\d)|(\d{4})(\d{2})(\d{2})(?:\d{2}){0,3}(?!\d)")
# Other years are what databases write for none.
YEARS = range(1900, 2100)


@dataclass(frozen=True)
class Pseudonyms:
    """Keyed names: the same for the same key and original, and not to be undone without the key.

    Attributes:
        secret: The key.
        keep: Keep subjects' labels, because the source has pseudonyms already.
    """

    secret: bytes
    keep: bool = False

    def digest(self, purpose: str, text: str) -> bytes:
        """HMAC-SHA256 of a text for one purpose."""
        return hmac.new(self.secret, f"{purpose}\0{text}".encode(), hashlib.sha256).digest()

    def item(self, text: str) -> str:
        """Name of an item."""
        return self.digest("item", text).hex()[:16]

    def subject(self, original: str) -> str:
        """Label of a subject, letters and digits after "sub-".

        Raises:
            RejectionError: Labels are kept and this one is no BIDS label.
        """
        original = original.strip()
        if self.keep:
            label = original.removeprefix("sub-")
            if not re.fullmatch(r"[A-Za-z0-9]+", label):
                raise RejectionError(
                    "process", "subject's label is not letters and digits only", detail=original
                )
            return f"sub-{label}"
        return f"sub-{self.digest('subject', original).hex()[:12]}"

    def site(self, original: str) -> str:
        """Label of a site or scanner."""
        return f"site-{self.digest('site', original).hex()[:8]}" if original.strip() else ""

    def shift(self, subject: str) -> timedelta:
        """What is added to every date of a subject (given by pseudonym): 1 to 3650 days back."""
        number = int.from_bytes(self.digest("shift", subject)[:8], "big")
        return -timedelta(days=1 + number % LONGEST_SHIFT)

    def uid(self, original: str) -> str:
        """A UID in place of another."""
        return f"2.25.{int.from_bytes(self.digest('uid', original)[:15], 'big')}"


def open_key(path: Path, *, out: Path, keep: bool) -> Pseudonyms:
    """The key in a file.

    Raises:
        InputError: The file lies inside the output, is no key, or can be read by others.
    """
    _check_place(path, out)
    if not path.is_file():
        raise InputError(f"The key must be a file that ldae ingest wrote, got {path}, which is none.")
    if path.stat().st_mode & 0o077:
        raise InputError(
            f"The key must be readable by its owner only, got mode {path.stat().st_mode & 0o777:o} "
            f"in {path}. "
            f"Run: chmod 600 {path}"
        )
    try:
        secret = bytes.fromhex(read_key(path)["secret"])
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"The key must be a file that ldae ingest wrote, got {path}.") from error
    return Pseudonyms(secret, keep)


def draw_key(path: Path, *, out: Path, keep: bool) -> Pseudonyms:
    """A new key, not written yet.

    Raises:
        InputError: Its file would lie inside the output.
    """
    _check_place(path, out)
    return Pseudonyms(secrets.token_bytes(32), keep)


def _check_place(path: Path, out: Path) -> None:
    if Path(os.path.realpath(path)).is_relative_to(os.path.realpath(out)):
        raise InputError(f"The key must lie outside the cohort's folder, got {path} in {out}. Use --key.")


def read_key(path: Path) -> dict[str, Any]:
    """The key file's content: the secret, and what it was used on."""
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def write_key(path: Path, document: Mapping[str, Any]) -> None:
    """Write the key file, atomically and never readable by others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    clear_partials(path.parent)  # one left behind would tell who is who
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=partial_prefix())  # created with mode 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump(document, stream, indent=1, sort_keys=True)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def parse_date(text: str) -> date | None:
    """A date as DICOM (20190312, 2019.03.12) or ISO (2019-03-12) writes it, perhaps with a time, or None."""
    match = DATE.match(text.strip())
    if match is None:
        return None
    try:
        found = date(*(int(match[group] or match[other]) for group, other in ((1, 5), (3, 6), (4, 7))))
    except ValueError:
        return None
    return found if found.year in YEARS else None


def deidentify_dataset(dataset: Any, *, names: Pseudonyms, subject: str) -> None:
    """Apply the basic profile to a DICOM dataset in place, in all its sequences.

    Args:
        dataset: A pydicom Dataset.
        names: Pseudonyms.
        subject: The subject's pseudonym.
    """
    anonymizer = need("dicomanonymizer", package="dicom-anonymizer", extra="dicom", verb="ldae ingest")
    rules = _rules(names, subject)
    levels = [dataset]
    while levels:
        level = levels.pop()
        # Rules for elements that are not there cost most of the time; those of repeating groups stay.
        present = {tag: act for tag, act in rules.items() if len(tag) > 2 or tag[0] == 2 or tag in level}
        anonymizer.anonymize_dataset(level, base_rules_gen=partial(dict, present))
        levels += [item for element in level if element.VR == "SQ" for item in element.value]


@lru_cache(maxsize=8)
def _rules(names: Pseudonyms, subject: str) -> dict[tuple[int, ...], Callable[[Any, Any], None]]:
    """The profile's actions by tag, with keyed UIDs, shifted dates and the pseudonym put in."""
    base = need(
        "dicomanonymizer.simpledicomanonymizer", package="dicom-anonymizer", extra="dicom", verb="ldae ingest"
    )
    rules: dict[tuple[int, ...], Callable[[Any, Any], None]] = base.initialize_actions_2024b()
    uid_actions = (base.replace_UID, base.delete_or_empty_or_replace_UID)

    def keyed_uid(dataset: Any, tag: Any) -> None:
        if (element := dataset.get(tag)) is not None and isinstance(element.value, str):
            element.value = names.uid(element.value)

    def pseudonym(dataset: Any, tag: Any) -> None:
        if (element := dataset.get(tag)) is not None:
            element.value = subject

    def shifted(dataset: Any, tag: Any) -> None:
        if (element := dataset.get(tag)) is not None:
            found = parse_date(str(element.value))
            element.value = f"{found + names.shift(subject):%Y%m%d}" if found else ""

    rules.update({tag: keyed_uid for tag, action in rules.items() if action in uid_actions})
    rules |= {(0x0010, 0x0010): pseudonym, (0x0010, 0x0020): pseudonym}
    rules |= dict.fromkeys([(0x0008, 0x0020), (0x0008, 0x0021), (0x0008, 0x0022), (0x0008, 0x0023)], shifted)
    for tag in ((0x0010, 0x1010), (0x0010, 0x0040)):
        rules.pop(tag, None)
    return rules


def check_burned_in(voxels: NDArray[np.float32], *, declared: bool = False) -> None:
    """Stop where text may be written into the image.

    Letters have one value, the brightest or one that stands out of the histogram, right beside a dark
    background; tissue at such a value, clipped or not, has bright neighbours.

    Args:
        voxels: [X, Y, Z].
        declared: Whether an element Burned In Annotation (0028,0301) says so.

    Raises:
        RejectionError: The header says so, or the pixels look like it.
    """
    if declared:
        raise RejectionError("process", "burned-in text (0028,0301)")
    low, top = float(voxels.min()), float(voxels.max())
    dark = voxels < low + DARK * (top - low)
    beside = np.zeros_like(dark)
    for axis in range(3):
        for step in (1, -1):
            beside |= np.roll(dark, step, axis=axis)
    for value in {top, *_standing_out(voxels[voxels > low + WRITTEN * (top - low)])}:
        written = voxels == value
        share = int((written & beside).sum())
        if share >= LETTERS and share > 0.5 * int(written.sum()):
            raise RejectionError("process", "burned-in text suspected in the pixels")


def _standing_out(values: NDArray[np.float32]) -> list[float]:
    """Values that come far more often than those next to them."""
    found, counts = np.unique(values, return_counts=True)
    usual = ndimage.median_filter(counts, size=25, mode="mirror")
    often = (counts >= LETTERS) & (counts > OFTEN * usual)
    return [float(value) for value in found[often]]
