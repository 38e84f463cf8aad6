# SPDX-License-Identifier: Apache-2.0
"""Tables of the page from tables of numbers."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ldae.report.elements import Table

UNKNOWN = "–"


@dataclass(frozen=True)
class Column:
    """How a column of numbers or texts is shown.

    Attributes:
        name: Its name in the data; where there are also `name_low` and `name_high`, they are shown behind.
        title: Its heading.
        form: How its numbers are formatted, such as ".3f"; "" for texts.
    """

    name: str
    title: str
    form: str = ""


def make_table(
    frame: pd.DataFrame,
    columns: Sequence[Column],
    *,
    caption: str,
    command: str,
    group: Sequence[str] = (),
    heading: str = "",
) -> Table:
    """A table with one row a row of the data.

    Args:
        frame: The data.
        columns: What is shown of it.
        caption: What it means.
        command: What made it.
        group: Columns whose values head the rows that share them, in their order.
        heading: Their heading, with the columns' names in braces.
    """
    groups: dict[str, list[list[str]]] = {}
    for row in frame.to_dict("records"):
        head = heading.format(**{name: row[name] for name in group})
        groups.setdefault(head, []).append([_cell(row, column) for column in columns])
    return Table(
        columns=[column.title for column in columns],
        numeric=[bool(column.form) for column in columns],
        groups=groups,
        caption=caption,
        command=command,
    )


def _cell(row: dict[Hashable, Any], column: Column) -> str:
    value = row[column.name]
    if not column.form:
        return UNKNOWN if pd.isna(value) else str(value)
    low, high = (row.get(f"{column.name}_{end}") for end in ("low", "high"))
    if low is None or high is None or pd.isna(value):
        return number(value, column.form)
    return f"{number(value, column.form)} ({number(low, column.form)} to {number(high, column.form)})"


def number(value: float, form: str) -> str:
    """A formatted number, or a dash where it is not known."""
    return UNKNOWN if pd.isna(value) else format(value, form)
