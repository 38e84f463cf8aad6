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
        classes: Classes to tell apart. None takes CN and AD of a diagnosis, and all of another column.
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
    rows = frame[frame[target].notna()]
    if is_number(frame[target]):
        if classes:
            raise InputError(f"classes must be left out for the numbers of {target!r}, got {list(classes)}.")
        return rows
    wanted = classes or DEFAULT_CLASSES.get(target) or sorted(set(rows[target]))
    rows = rows[rows[target].isin(list(wanted))]
    for split in splits:
        absent = sorted(set(wanted) - set(rows.loc[rows["split"] == split, target]))
        if absent:
            raise InputError(
                f"Every class of {target} must have scans in split {split}, got none of "
                f"{', '.join(map(str, absent))} in {path}. Name other classes, or use a larger cohort."
            )
    return rows
