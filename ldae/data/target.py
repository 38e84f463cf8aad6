# SPDX-License-Identifier: Apache-2.0
"""What a head or a network predicts: a column of a cohort, as classes or as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from ldae.data.split import check_split
from ldae.errors import InputError

DEFAULT_CLASSES = {"diagnosis": ("CN", "AD")}


def is_number(column: pd.Series[Any]) -> bool:
    """Whether a column holds numbers to regress, rather than classes."""
    return bool(is_numeric_dtype(column)) and not is_bool_dtype(column)


def labelled_rows(
    frame: pd.DataFrame, *, target: str, classes: Sequence[str] | None, splits: Sequence[str]
) -> pd.DataFrame:
    """The scans with a known target, of the wanted classes, with their index in `frame`.

    Args:
        frame: One row a scan, with a split; `attrs["path"]` is told in errors.
        target: Column to predict.
        classes: Classes to tell apart, as they are written; numbers that are named here become words. None
            takes CN and AD of a diagnosis, and all of another column.
        splits: Splits that must hold every class.

    Raises:
        InputError: No such column, no split, or no scan of a class in one of `splits`.
    """
    check_split(frame)
    path = frame.attrs.get("path", "the embeddings")
    if target not in frame.columns:
        raise InputError(
            f"target must be a column of {path}, got {target!r}. It has: {', '.join(frame.columns)}."
        )
    # beside missing ones labels may be objects
    known = frame[target].dropna().infer_objects()
    if is_number(known) and classes:
        known = known.map(as_word)
    elif is_bool_dtype(known):
        known = known.astype(bool)
    rows = frame.loc[known.index].assign(**{target: known})
    if is_number(known):
        return rows
    named = {as_word(label): label for label in set(rows[target])}
    words = classes or DEFAULT_CLASSES.get(target) or sorted(named)
    wanted = [named.get(as_word(word), word) for word in words]
    rows = rows[rows[target].isin(wanted)]
    for split in splits:
        absent = sorted(map(str, set(wanted) - set(rows.loc[rows["split"] == split, target])))
        if absent:
            raise InputError(
                f"Every class of {target} must have scans in split {split}, got none of "
                f"{', '.join(absent)} in {path}. Name other classes, or use a larger cohort."
            )
    return rows


def as_word(label: Any) -> str:
    """A label as it is written; a whole number without a point, also where missing ones made it a float."""
    return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label)


def numbered_classes(column: pd.Series[Any]) -> list[str]:
    """The one or two whole numbers that a column holds, which look like classes; none for any other."""
    found = sorted(set(column.dropna())) if is_number(column) else []
    whole = all(float(value).is_integer() for value in found)
    return [as_word(value) for value in found] if whole and len(found) <= 2 else []
