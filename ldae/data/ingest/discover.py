# SPDX-License-Identifier: Apache-2.0
"""What a folder holds: DICOM series whatever the files' names, and NIfTI files, BIDS or not."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from ldae.data.ingest.deidentify import Pseudonyms
from ldae.data.ingest.extras import need, silent_readers
from ldae.data.nifti import SUFFIXES
from ldae.errors import InputError

MAGIC = b"DICM"
BY_PRODUCTS = ("derivatives", "sourcedata", "code", "stimuli")
# BIDS entities in a path; without them the first folder below the source is taken for the subject.
SUBJECT = re.compile(r"(?:^|[/_])sub-([A-Za-z0-9]+)")
SESSION = re.compile(r"(?:^|[/_])ses-([A-Za-z0-9]+)")


@dataclass(frozen=True)
class Item:
    """Something that may become a scan of the cohort; it knows files, so it is never published.

    Attributes:
        name: Keyed hash.
        kind: dicom, bids or nifti.
        paths: Its files, sorted.
        stamp: Keyed hash of the files' places, sizes and times.
        subject: The source's label of the subject, of NIfTI files only.
        visit: The source's label of the visit, of NIfTI files only.
    """

    name: str
    kind: str
    paths: tuple[Path, ...]
    stamp: str
    subject: str = ""
    visit: str = ""


@dataclass
class Found:
    """What a source holds.

    Attributes:
        items: Everything that may be a scan.
        ignored: How many files are something else.
        bids: Whether the source is a BIDS dataset.
    """

    items: list[Item] = field(default_factory=list)
    ignored: int = 0
    bids: bool = False


def discover(source: Path, *, names: Pseudonyms, out: Path, progress: bool = False) -> Found:
    """Find series and files, in an order that does not depend on the file system.

    Raises:
        InputError: The source holds nothing of the kind.
    """
    found = Found(bids=(source / "participants.tsv").is_file() or any(source.glob("sub-*/")))
    series: dict[str, list[Path]] = {}
    for path in tqdm(
        sorted(_files(source, out, bids=found.bids)), desc="find", unit="file", disable=not progress
    ):
        if path.name.lower().endswith(SUFFIXES):
            found.items.append(_nifti(path, source, names=names, bids=found.bids))
        elif uid := _series_uid(path):
            series.setdefault(uid, []).append(path)
        else:
            found.ignored += 1
    for uid, paths in series.items():
        found.items.append(Item(names.item(uid), "dicom", tuple(paths), _stamp(paths, names)))
    if not found.items:
        raise InputError(
            f"The source must hold DICOM or NIfTI files, got none in {source}. Check the folder."
        )
    found.items.sort(key=lambda item: item.name)
    return found


def _files(source: Path, out: Path, *, bids: bool) -> Iterator[Path]:
    """Every file but hidden ones, BIDS by-products, and the output should it lie in the source."""
    left_out = BY_PRODUCTS if bids else ()
    for folder, below, files in os.walk(source):
        here = Path(folder)
        below[:] = [
            name for name in below if not name.startswith(".") and (here / name).resolve() != out.resolve()
        ]
        below[:] = [name for name in below if here != source or name not in left_out]
        yield from (here / name for name in files if not name.startswith("."))


def _series_uid(path: Path) -> str:
    """SeriesInstanceUID of a DICOM file, a name of its own for a damaged one, "" for anything else."""
    if not path.is_file():  # a link to nowhere, a pipe
        return ""
    try:
        with path.open("rb") as stream:
            preamble = stream.read(132)
    except OSError:
        return f"damaged {path}"
    if preamble[128:] != MAGIC and not _bare(preamble):
        return ""
    pydicom = need("pydicom", package="pydicom", extra="dicom", verb="ldae ingest with DICOM files")
    bare = preamble[128:] != MAGIC
    try:
        with silent_readers():
            header = pydicom.dcmread(
                path, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"], force=bare
            )
            # elements are read, and complained of, when they are asked for
            uid = str(header.get("SeriesInstanceUID", ""))
    except Exception:  # whatever a parser makes of damaged bytes
        uid = ""
    if uid or bare:
        return uid
    return "" if path.name == "DICOMDIR" else f"damaged {path}"


def _bare(start: bytes) -> bool:
    """Whether bytes look like a dataset without preamble: first an element of group 0008, little endian."""
    return len(start) > 8 and start[:2] == b"\x08\x00" and start[3:4] == b"\x00"


def _nifti(path: Path, source: Path, *, names: Pseudonyms, bids: bool) -> Item:
    place = path.relative_to(source).as_posix()
    subject, visit = (_entity(pattern, place) for pattern in (SUBJECT, SESSION))
    folders = path.relative_to(source).parts[:-1]
    if not subject:
        subject = folders[0] if folders else re.split(r"[._]", path.name)[0]
    stamp = _stamp([path, *sidecars(path)], names)
    return Item(names.item(place), "bids" if bids else "nifti", (path,), stamp, subject, visit)


def sidecars(path: Path) -> list[Path]:
    """The JSON file of a NIfTI file, if there is one."""
    name = re.sub(r"\.nii(\.gz)?$", ".json", path.name, flags=re.IGNORECASE)
    return [path.with_name(name)] if path.with_name(name).is_file() else []


def _entity(pattern: re.Pattern[str], place: str) -> str:
    match: Callable[[str], re.Match[str] | None] = pattern.search
    found = match(place)
    return found.group(1) if found else ""


def _stamp(paths: list[Path], names: Pseudonyms) -> str:
    return names.digest("stamp", repr([_mark(path) for path in paths])).hex()[:32]


def _mark(path: Path) -> tuple[str, int, int]:
    """Place, size and time; a dataset that was fetched in part links to files that are not there."""
    if not path.exists():
        return str(path), 0, 0
    return str(path), path.stat().st_size, path.stat().st_mtime_ns
