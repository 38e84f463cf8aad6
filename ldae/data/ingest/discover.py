# SPDX-License-Identifier: Apache-2.0
"""What a folder holds: DICOM series whatever the files' names, and NIfTI files, BIDS or not."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

from tqdm import tqdm

from ldae.data.ingest.deidentify import Pseudonyms
from ldae.data.ingest.extras import need, silent_readers
from ldae.data.ingest.manifest import WORK
from ldae.data.nifti import SUFFIXES
from ldae.errors import InputError

MAGIC = b"DICM"
BY_PRODUCTS = ("derivatives", "sourcedata", "code", "stimuli")
# BIDS entities in a path; without them folders and names are taken for subject and visit.
SUBJECT = re.compile(r"(?:^|[/_])sub-([A-Za-z0-9]+)")
DAY = re.compile(r"(?<!\d)((?:19|20)\d\d)[-_.]?([01]\d)[-_.]?([0-3]\d)(?!\d)")
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
        guessed: Whether the subject is only taken for that: nothing in the path says so.
    """

    name: str
    kind: str
    paths: tuple[Path, ...]
    stamp: str
    subject: str = ""
    visit: str = ""
    guessed: bool = False


@dataclass
class Found:
    """What a source holds.

    Attributes:
        items: Everything that may be a scan.
        ignored: How many files are something else.
        closed: How many folders cannot be read.
        bids: Whether the source is a BIDS dataset.
    """

    items: list[Item] = field(default_factory=list)
    ignored: int = 0
    closed: int = 0
    bids: bool = False


def discover(source: Path, *, names: Pseudonyms, subject: str | None = None, progress: bool = False) -> Found:
    """Find series and files, in an order that does not depend on the file system.

    Args:
        source: The folder.
        names: Pseudonyms.
        subject: Regular expression that finds the subject's label, its first group if it has one, in the
            place of a NIfTI file within the source. By default it is what stands behind `sub-`, else the
            first folder below the source, else the file's name up to the first "_" or ".".
        progress: Show a bar.

    Raises:
        InputError: The source holds nothing of the kind, or the expression is none.
    """
    pattern = _compiled(subject)
    found = Found(bids=(source / "participants.tsv").is_file() or any(source.glob("sub-*/")))
    series: dict[str, list[Path]] = {}
    for path in tqdm(sorted(_files(source, found)), desc="find", unit="file", disable=not progress):
        if _is_nifti(path):
            found.items.append(_nifti(path, source, names=names, bids=found.bids, pattern=pattern))
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


def _compiled(pattern: str | None) -> re.Pattern[str] | None:
    try:
        return None if pattern is None else re.compile(pattern)
    except re.error as error:
        raise InputError(f"subject must be a regular expression, got {pattern!r}: {error}.") from error


def _files(source: Path, found: Found) -> Iterator[Path]:
    """Every file but hidden ones, BIDS by-products, and folders that ldae wrote; links are followed once."""
    left_out = BY_PRODUCTS if found.bids else ()
    seen = {os.path.realpath(source)}

    def closed(_: OSError) -> None:
        found.closed += 1

    for folder, below, files in os.walk(source, followlinks=True, onerror=closed):
        here = Path(folder)
        kept = []
        for name in sorted(below):
            place = os.path.realpath(here / name)
            unwanted = name.startswith(".") or (here == source and name in left_out) or place in seen
            if not unwanted and not (here / name / WORK).is_dir():
                kept.append(name)
                seen.add(place)
        below[:] = kept
        yield from (here / name for name in files if not name.startswith("."))


def _start(path: Path) -> bytes:
    """The first bytes of a file; DICOM's magic word ends them. None of what is no file."""
    if not path.is_file():
        return b""
    with path.open("rb") as stream:
        return stream.read(132)


def _is_nifti(path: Path) -> bool:
    """By its name, unless it begins as DICOM does."""
    try:
        return path.name.lower().endswith(SUFFIXES) and _start(path)[128:] != MAGIC
    except OSError:
        return True


def _series_uid(path: Path) -> str:
    """SeriesInstanceUID of a DICOM file, a name of its own for a damaged one, "" for anything else."""
    if not path.is_file():  # a link to nowhere, a pipe
        return ""
    try:
        preamble = _start(path)
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
    """Whether bytes look like a dataset without preamble: first an element of group 0002 or 0008."""
    return len(start) > 8 and start[:2] in (b"\x02\x00", b"\x08\x00") and start[3:4] == b"\x00"


def _nifti(
    path: Path, source: Path, *, names: Pseudonyms, bids: bool, pattern: re.Pattern[str] | None
) -> Item:
    place = path.relative_to(source).as_posix()
    subject, visit = (_entity(entity, place) for entity in (SUBJECT, SESSION))
    folders = path.relative_to(source).parts[:-1]
    guessed = not subject and pattern is None
    if pattern is not None:
        found = pattern.search(place)
        subject = "" if found is None else found.group(1 if pattern.groups else 0) or ""
    elif guessed:
        subject = folders[0] if folders else re.split(r"[._]", path.name)[0]
    if guessed and not visit and len(folders) > 1:
        visit = _visit_of(folders[1:])
    stamp = _stamp([path, *sidecars(path)], names)
    kind = "bids" if bids else "nifti"
    return Item(names.item(place), kind, (path,), stamp, subject, visit, guessed=guessed)


def _visit_of(folders: Sequence[str]) -> str:
    """What tells visits apart by the folders below a subject's: a date among them, else all their names."""
    dates = [found for name in folders if (found := DAY.search(name))]
    text = "".join(dates[0].groups()) if dates else "".join(folders)
    return re.sub(r"[^A-Za-z0-9]", "", text)


def sidecars(path: Path) -> list[Path]:
    """The JSON files that tell of a NIfTI file, nearer and more special ones later.

    In a BIDS dataset these are, from its root down, all of the same suffix that name no other entities than
    the file does (inheritance principle).
    """
    stem = re.sub(r"\.nii(\.gz)?$", "", path.name, flags=re.IGNORECASE)
    parents = list(path.parents)
    tops = [number for number, folder in enumerate(parents) if folder.name.startswith("sub-")]
    levels = parents[: tops[-1] + 2][::-1] if tops else [path.parent]
    *entities, suffix = stem.split("_")
    who = [entity for entity in entities if entity.startswith(("sub-", "ses-"))]
    free = [entity for entity in entities if entity not in who]
    names = [
        f"{'_'.join([*who[:count], *some, suffix])}.json"
        for size in range(len(free) + 1)
        for count in range(len(who) + 1)
        for some in combinations(free, size)
    ]
    usual = names if tops else [f"{stem}.json"]
    return [folder / name for folder in levels for name in usual if (folder / name).is_file()]


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
