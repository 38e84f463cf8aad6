# SPDX-License-Identifier: Apache-2.0
"""The cohort's table: read once, checked whole, every fault named with its row and column."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from tqdm import tqdm

from ldae.data.artefact import atomic_path
from ldae.data.bids import is_bids, read_bids
from ldae.data.nifti import open_scan, read_voxels
from ldae.data.split import SPLITS, leaking_subjects, unknown_words
from ldae.data.table import CohortError, Fault, Table, change_cells, is_missing, plain_column, read_table
from ldae.errors import InputError

__all__ = ["COLUMNS", "DIAGNOSES", "SPLITS", "CohortError", "Fault", "read_cohort", "write_cohort"]

COLUMNS = ("subject", "session", "path", "diagnosis", "age")
DIAGNOSES = ("CN", "MCI", "AD")
OLDEST = 120

Check = Literal["table", "headers", "voxels"]


def read_cohort(
    path: str | Path,
    *,
    check: Check = "headers",
    diagnoses: Sequence[str] = DIAGNOSES,
    trusted: Callable[[Path], bool] | None = None,
    progress: bool = False,
    ignore_split: bool = False,
) -> pd.DataFrame:
    """Read a cohort and stop at whatever is wrong with it, all faults at once.

    A cohort is a CSV with the columns subject, session, path, diagnosis and age (a .tsv has tabs), or a BIDS
    folder or its participants.tsv (see `ldae.data.bids`). Empty or n/a diagnosis and age mean
    unlabelled. Paths are absolute or relative to the table's folder. Further columns are carried through.

    Args:
        path: The table or folder.
        check: "table" looks at the cells only, "headers" opens every scan, "voxels" also reads it whole.
        diagnoses: Words that the diagnosis may be.
        trusted: Scans for which it is true are not read, because it is known that they can be.
        progress: Show a bar while scans are read.
        ignore_split: Do not check the split column, because it is about to be replaced.

    Returns:
        One row a scan in the file's order. subject, session and path (absolute) are text, diagnosis is text
        or missing, age a float in years or NaN. `attrs["path"]` names the table.

    Raises:
        FileNotFoundError: There is no such file.
        CohortError: With every fault.
        InputError: It is no table at all.
    """
    path = Path(path)
    bids = is_bids(path)
    table = read_bids(path) if bids else read_table(path)
    missing = [name for name in COLUMNS if name not in table.header]
    if missing:
        raise CohortError(path, [*_missing_columns(missing, table.header), *table.faults])
    base = path if path.is_dir() else path.parent
    frame = _frame(table, base)
    lines = table.lines
    faults = [*table.faults, *_cell_faults(table, diagnoses), *_duplicates(frame, lines)]
    if "split" in table.header and not ignore_split:
        faults += _split_faults(frame, lines)
    if check != "table":
        faults += _scan_faults(frame, lines, voxels=check == "voxels", trusted=trusted, progress=progress)
    if faults:
        raise CohortError(path, sorted(faults, key=lambda fault: (fault.file or "", fault.row or 0)))
    if frame.empty:
        raise InputError(
            f"A cohort must have at least one scan, got none in {path}. Add a row for each scan."
        )
    frame["age"] = frame["age"].astype(float)
    frame.attrs["path"] = str(path)
    return frame


def write_cohort(frame: pd.DataFrame, path: str | Path) -> None:
    """Write a cohort as CSV, atomically; paths under the CSV's folder become relative to it."""
    path = Path(path)
    base = Path(os.path.abspath(path.parent))
    paths = change_cells(frame["path"], lambda cell: _relative(cell, base))
    with atomic_path(path) as temporary:
        frame.assign(path=paths.set_axis(frame.index)).to_csv(temporary, index=False)


def _relative(path: str, base: Path) -> str:
    scan = Path(os.path.abspath(path))
    return str(scan.relative_to(base) if scan.is_relative_to(base) else scan)


def _missing_columns(missing: Sequence[str], header: Sequence[str]) -> Iterator[Fault]:
    hint = "separate columns by commas" if len(header) == 1 else f"the columns are {', '.join(header)}"
    for name in missing:
        yield Fault(1, name, f"the column is missing; {hint}")


def _frame(table: Table, base: Path) -> pd.DataFrame:
    """The table with its own types; cells that break a rule are in it as they are."""
    columns = {name: plain_column(table.column(name)) for name in table.header if name not in COLUMNS}
    for name in ("subject", "session"):
        columns[name] = change_cells(table.column(name), str.strip)
    columns["path"] = change_cells(table.column("path"), lambda cell: _absolute(cell, base))
    columns["diagnosis"] = change_cells(
        table.column("diagnosis"), lambda cell: None if is_missing(cell) else cell.strip()
    )
    columns["age"] = change_cells(table.column("age"), _number, dtype="float64")
    return pd.DataFrame({name: columns[name] for name in table.header})


def _absolute(cell: str, base: Path) -> str:
    return os.path.abspath(base / cell.strip()) if cell.strip() else ""


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan


def _cell_faults(table: Table, diagnoses: Sequence[str]) -> Iterator[Fault]:
    rows = table.cells[list(COLUMNS)].itertuples(index=False, name=None)
    for line, (subject, session, path, diagnosis, age) in zip(table.lines, rows, strict=True):
        for name, cell in (("subject", subject), ("session", session), ("path", path)):
            if is_missing(cell):
                advice = "; write 1 where there is one session only" if name == "session" else ""
                yield Fault(line, name, f"must not be empty, got {cell!r}{advice}")
        if not is_missing(diagnosis) and diagnosis.strip() not in diagnoses:
            allowed = ", ".join(diagnoses)
            yield Fault(line, "diagnosis", f"must be one of {allowed} or empty, got {diagnosis.strip()!r}")
        if not is_missing(age) and (fault := _age_fault(age)):
            yield Fault(line, "age", fault)


def _age_fault(cell: str) -> str:
    value = _number(cell)
    if not math.isfinite(value):
        return f"must be a number of years or empty, got {cell.strip()!r}"
    if not 0 <= value <= OLDEST:
        return f"must be within 0..{OLDEST} years, got {cell.strip()}"
    return ""


def _duplicates(frame: pd.DataFrame, lines: Sequence[int]) -> Iterator[Fault]:
    """The same visit or the same file twice, told at the later row."""
    if _are_distinct(zip(frame["subject"], frame["session"], strict=True)) and _are_distinct(
        map(os.path.realpath, frame["path"])
    ):
        return  # told by numbers: names of all visits and files would be most of what a cohort takes
    visits: dict[tuple[str, str], tuple[int, str]] = {}
    files: dict[str, int] = {}
    for line, subject, session, path in zip(
        lines, frame["subject"], frame["session"], frame["path"], strict=True
    ):
        if subject and session:
            first, other = visits.setdefault((subject, session), (line, path))
            if path != other or line != first:
                yield Fault(
                    line,
                    "session",
                    f"scan {subject!r}, {session!r} stands in row {first} already; "
                    f"keep one of {other} and {path}",
                )
        if path and files.setdefault(os.path.realpath(path), line) != line:
            yield Fault(
                line, "path", f"{path} stands in row {files[os.path.realpath(path)]} already; keep one"
            )


def _are_distinct(items: Iterable[Hashable]) -> bool:
    """Whether there is nothing twice among them; two that only have the same hash count as one."""
    hashes = np.fromiter(map(hash, items), dtype=np.int64)
    return len(np.unique(hashes)) == len(hashes)


def _split_faults(frame: pd.DataFrame, lines: Sequence[int]) -> Iterator[Fault]:
    """Unknown words and subjects in two splits, told at the row that disagrees with an earlier one."""
    if not unknown_words(frame) and not leaking_subjects(frame):
        return
    first: dict[str, tuple[str, int]] = {}
    for line, subject, word in zip(
        lines, frame["subject"], frame["split"].fillna("").astype(str), strict=True
    ):
        if word not in SPLITS:
            yield Fault(
                line, "split", f"must be one of {', '.join(SPLITS)}, got {word!r}; see ldae split --overwrite"
            )
            continue
        earlier, row = first.setdefault(subject, (word, line))
        if word != earlier:
            yield Fault(
                line,
                "split",
                f"a subject must be in one split only, got {subject!r} in {earlier} (row {row}) and {word}; "
                "give all its scans the same, or run ldae split --overwrite",
            )


def _scan_faults(
    frame: pd.DataFrame,
    lines: Sequence[int],
    *,
    voxels: bool,
    trusted: Callable[[Path], bool] | None,
    progress: bool,
) -> Iterator[Fault]:
    rows = zip(lines, frame["path"], strict=True)
    for line, path in tqdm(rows, total=len(frame), desc="check scans", disable=not progress):
        if not path or (trusted is not None and trusted(Path(path))):
            continue
        try:
            image = open_scan(path)
            if voxels:
                read_voxels(image, path)
        except (InputError, FileNotFoundError) as error:
            yield Fault(line, "path", str(error))
