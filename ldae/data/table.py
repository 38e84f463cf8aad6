# SPDX-License-Identifier: Apache-2.0
"""Cohort tables as text: cells and line numbers exactly as they stand in the file."""

from __future__ import annotations

import csv
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import compress, islice
from operator import not_
from pathlib import Path
from typing import Any, TextIO, TypeVar

import pandas as pd

from ldae.data.artefact import atomic_path
from ldae.errors import InputError

# As BIDS writes it, and as tables from spreadsheets and pandas often do.
MISSING = frozenset({"", "n/a", "na", "nan"})
CHUNK = 1000
ItemT = TypeVar("ItemT")
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
        cells: A column of text for each of the file's, as many cells in each as there are rows.
        lines: Line of the file on which each row ends; the header is line 1.
        faults: Rows left out because they have too many or too few cells.
        ending: How its lines end.
    """

    cells: pd.DataFrame
    lines: Sequence[int]
    faults: list[Fault]
    ending: str = "\n"

    @classmethod
    def of(cls, header: Sequence[str], rows: Iterable[tuple[int, Sequence[str]]]) -> Table:
        """A table from its columns' names and, for each row, line and cells.

        Rows are taken a chunk at a time: as Python's text, a scan's cells take five times the room.
        """
        lines, faults = array("q"), []
        parts = [pd.DataFrame({name: [] for name in header}, dtype="str")]
        for chunk in _chunks(rows):
            whole = [row for row in chunk if len(row[1]) == len(header)]
            lines.extend(line for line, _ in whole)
            parts.append(pd.DataFrame([cells for _, cells in whole], columns=list(header), dtype="str"))
            faults += [
                Fault(line, None, f"must have {len(header)} cells as the header has, got {len(cells)}")
                for line, cells in chunk
                if len(cells) != len(header)
            ]
        return cls(pd.concat(parts, ignore_index=True), lines, faults)

    @property
    def header(self) -> list[str]:
        """Names of the columns."""
        return list(self.cells.columns)

    @property
    def rows(self) -> Iterator[tuple[str, ...]]:
        """The cells of each row."""
        yield from self.cells.itertuples(index=False, name=None)

    def column(self, name: str) -> pd.Series[str]:
        """All cells of a column."""
        return self.cells[name]

    def with_column(self, name: str, cells: Sequence[str]) -> Table:
        """The table with a column added at the end, or replaced where it stands."""
        column = pd.Series(list(cells), dtype="str", index=self.cells.index)
        return replace(self, cells=self.cells.assign(**{name: column}))


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
    with open(path, encoding="utf-8-sig", newline="") as stream:
        rows = _rows(stream, path=path, what=what)
        _, first = next(rows, (0, []))
        if not first:
            raise InputError(f"{what} must have a header and rows, got an empty file {path}.")
        header = [cell.strip() for cell in first]
        if "" in header or len(set(header)) < len(header):
            # not quoted: without a header line these are the first person's data
            raise InputError(
                f"Columns must have names, each its own, got an empty or repeated one in {path}. Correct the "
                "first line."
            )
        table = Table.of(header, rows)
        return replace(table, ending="\r\n" if "\r\n" in (stream.newlines or "") else "\n")


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


def _rows(stream: TextIO, *, path: Path, what: str) -> Iterator[tuple[int, list[str]]]:
    """Line and cells of every row that is not empty."""
    reader = csv.reader(_text(stream, path=path, what=what), delimiter=_delimiter(path), strict=True)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, cells
    except csv.Error as error:
        raise InputError(
            f"{what} must be a CSV file, got {path}: line {reader.line_num}: {error}."
        ) from error


def _text(stream: TextIO, *, path: Path, what: str) -> Iterator[str]:
    binary = InputError(
        f"{what} must be a CSV file in UTF-8, got binary data in {path}. Export the table as CSV."
    )
    try:
        for line in stream:
            if "\0" in line:
                raise binary
            yield line
    except UnicodeDecodeError as error:
        raise binary from error


def _chunks(items: Iterable[ItemT]) -> Iterator[list[ItemT]]:
    rest = iter(items)
    while chunk := list(islice(rest, CHUNK)):
        yield chunk


def write_table(path: Path, table: Table) -> None:
    """Write a table, atomically, with the text of every cell as it is."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, delimiter=_delimiter(path), lineterminator=table.ending)
        writer.writerows([table.header, *table.rows])


def is_missing(cell: str) -> bool:
    """Whether a cell says that there is no value."""
    return cell.strip().lower() in MISSING


def change_cells(cells: pd.Series[str], change: Callable[[str], Any], *, dtype: str = "str") -> pd.Series:
    """A column with `change` made to every cell; None is a missing value."""
    parts = [pd.Series([change(cell) for cell in chunk], dtype=dtype) for chunk in _chunks(cells)]
    return pd.concat(parts, ignore_index=True) if parts else pd.Series([], dtype=dtype)


def plain_column(cells: pd.Series[str]) -> pd.Series:
    """Cells as numbers where all of them are (gaps allowed), else as text; codes such as "007" stay text."""
    missing = [is_missing(cell) for cell in cells]
    if not all(missing) and all(map(_is_number, compress(cells, map(not_, missing)))):
        numbers = cells.str.strip().astype(object).mask(missing, None)
        return pd.to_numeric(numbers)
    return change_cells(cells, lambda cell: None if cell in ("", "n/a") else cell)


def _is_number(cell: str) -> bool:
    text = cell.strip()
    return NUMBER.fullmatch(text) is not None and any(map(str.isdigit, text))
