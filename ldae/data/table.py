# SPDX-License-Identifier: Apache-2.0
"""Cohort tables as text: cells and line numbers exactly as they stand in the file."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path

import pandas as pd

from ldae.data.artefact import atomic_path
from ldae.errors import InputError

# As BIDS writes it, and as tables from spreadsheets and pandas often do.
MISSING = frozenset({"", "n/a", "na", "nan"})
NUMBER = re.compile(r"[-+]?(0|[1-9]\d*)?(\.\d*)?([eE][-+]?\d+)?")


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a cohort.

    Attributes:
        row: Line in the file (the header is line 1), or None where the fault is the table's as a whole.
        column: Column, or None.
        message: What is wrong and what to do.
        file: The table, where it is not the cohort's own (a sessions.tsv).
    """

    row: int | None
    column: str | None
    message: str
    file: str | None = None

    def __str__(self) -> str:
        place = [
            self.file,
            f"row {self.row}" if self.row else None,
            f"column {self.column}" if self.column else None,
        ]
        return ": ".join([", ".join(part for part in place if part) or "table", self.message])


class CohortError(InputError):
    """Everything that is wrong with a cohort; `faults` lists it, and so does the message."""

    def __init__(self, path: str | Path, faults: Sequence[Fault]) -> None:
        self.path, self.faults = str(path), list(faults)
        count = f"{len(faults)} fault{'s' if len(faults) > 1 else ''}"
        super().__init__(
            f"A cohort must be free of faults, got {count} in {path}:\n"
            + "\n".join(f"  {fault}" for fault in faults)
        )


@dataclass(frozen=True)
class Table:
    """Text cells of a delimited file.

    Attributes:
        header: Names of the columns.
        rows: Cells, as many in each row as there are columns.
        lines: Line of the file on which each row ends; the header is line 1.
        faults: Rows left out because they have too many or too few cells.
        ending: How its lines end.
    """

    header: list[str]
    rows: list[tuple[str, ...]]
    lines: list[int]
    faults: list[Fault]
    ending: str = "\n"

    def column(self, name: str) -> list[str]:
        """All cells of a column."""
        place = self.header.index(name)
        return [row[place] for row in self.rows]

    def with_column(self, name: str, cells: Sequence[str]) -> Table:
        """The table with a column added at the end, or replaced where it stands."""
        if name not in self.header:
            rows = [(*row, cell) for row, cell in zip(self.rows, cells, strict=True)]
            return replace(self, header=[*self.header, name], rows=rows)
        place = self.header.index(name)
        rows = [(*row[:place], cell, *row[place + 1 :]) for row, cell in zip(self.rows, cells, strict=True)]
        return replace(self, rows=rows)


def table_path(cohort: Path) -> Path:
    """The table of a cohort that is given as CSV, as participants.tsv, or as a BIDS folder."""
    return cohort / "participants.tsv" if cohort.is_dir() else cohort


def read_table(path: Path, *, what: str = "A cohort") -> Table:
    """Read a comma-separated (.tsv: tab-separated) file as text.

    Args:
        path: The file.
        what: What it is, for messages.

    Raises:
        FileNotFoundError: There is no such file.
        InputError: It is empty, not text, has unnamed or repeated columns.
    """
    if not path.is_file():
        forms = "a CSV file or a BIDS folder" if what == "A cohort" else "a CSV or TSV file"
        raise FileNotFoundError(f"{what} must be {forms}, got {path}, which does not exist.")
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise InputError(
            f"{what} must be a CSV file in UTF-8, got binary data in {path}. Export the table as CSV."
        )
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(path), strict=True)
    lines: list[int] = []
    rows: list[tuple[str, ...]] = []  # not lists: tuples of text cost the garbage collector nothing
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                lines.append(reader.line_num)
                rows.append(tuple(cells))
    except csv.Error as error:
        raise InputError(
            f"{what} must be a CSV file, got {path}: line {reader.line_num}: {error}."
        ) from error
    if not rows:
        raise InputError(f"{what} must have a header and rows, got an empty file {path}.")
    header = [cell.strip() for cell in rows[0]]
    if "" in header or len(set(header)) < len(header):
        # not quoted: without a header line these are the first person's data
        raise InputError(
            f"Columns must have names, each its own, got an empty or repeated one in {path}. Correct the "
            "first line."
        )
    return replace(_table(header, rows[1:], lines[1:]), ending="\r\n" if "\r\n" in text else "\n")


def read_whole_table(path: Path, *, what: str) -> Table:
    """The same of a file of which no row may be lost.

    Raises:
        FileNotFoundError: There is no such file.
        InputError: As `read_table`, where cells are set apart otherwise, and where a row has more or fewer
            cells than the header.
    """
    table = read_table(path, what=what)
    if len(table.header) == 1 and re.search(r"[;,\t]", table.header[0]):
        separator = "tabs" if _delimiter(path) == "\t" else "commas"
        raise InputError(
            f"{what} must have its cells set apart by {separator}, got a line with none of them in {path}."
        )
    if table.faults:
        raise InputError(
            f"{what}, {path}: row {table.faults[0].row} {table.faults[0].message}. Put cells that hold the "
            "separator in double quotes."
        )
    return table


def _delimiter(path: Path) -> str:
    return "\t" if path.suffix.lower() == ".tsv" else ","


def _table(header: list[str], rows: list[tuple[str, ...]], lines: list[int]) -> Table:
    whole = [len(cells) == len(header) for cells in rows]
    faults = [
        Fault(line, None, f"must have {len(header)} cells as the header has, got {len(cells)}")
        for line, cells, kept in zip(lines, rows, whole, strict=True)
        if not kept
    ]
    return Table(header, list(compress(rows, whole)), list(compress(lines, whole)), faults)


def write_table(path: Path, table: Table) -> None:
    """Write a table, atomically, with the text of every cell as it is."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, delimiter=_delimiter(path), lineterminator=table.ending)
        writer.writerows([table.header, *table.rows])


def is_missing(cell: str) -> bool:
    """Whether a cell says that there is no value."""
    return cell.strip().lower() in MISSING


def plain_column(cells: Sequence[str]) -> pd.Series:
    """Cells as numbers where all of them are (gaps allowed), else as text; codes such as "007" stay text."""
    stripped = [cell.strip() for cell in cells]
    filled = [cell for cell in stripped if not is_missing(cell)]
    if filled and all(NUMBER.fullmatch(cell) and any(map(str.isdigit, cell)) for cell in filled):
        numbers = pd.Series([None if is_missing(cell) else cell for cell in stripped], dtype=object)
        return pd.to_numeric(numbers)
    return pd.Series([None if cell in ("", "n/a") else cell for cell in cells], dtype="str")
