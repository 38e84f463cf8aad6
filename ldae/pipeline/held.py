# SPDX-License-Identifier: Apache-2.0
"""What a manipulation holds: other heads, and columns of numbers beside the codes."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from ldae.errors import CheckpointError, InputError
from ldae.heads.linear import RidgeProbe
from ldae.pipeline.embeddings import code_array, read_embeddings
from ldae.pipeline.head_folder import DOCUMENT_NAME, FittedHead, fitted_head

FITTED_ON = "train"
EMBEDDINGS = "embeddings"
FEATURE_COLUMN = re.compile(r"(y|e\d+)_\d{3,}")


@dataclass(frozen=True)
class HeldOutput:
    """What a held head says of a code before and after a move.

    Attributes:
        name: The head, or the column.
        before: The number by its name, or the probability of each class.
        after: The same of the moved code.
    """

    name: str
    before: dict[str, float]
    after: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return {"name": self.name, "before": self.before, "after": self.after}


def held_output(held: FittedHead, *, before: NDArray[np.float64], after: NDArray[np.float64]) -> HeldOutput:
    """What a head says of two codes [D]."""
    first, second = _says(held, np.stack([before, after]))
    return HeldOutput(held.name, first, second)


def _says(held: FittedHead, codes: NDArray[np.float64]) -> list[dict[str, float]]:
    head: Any = held.head
    if not hasattr(head, "classes_"):
        return [{held.name: float(value)} for value in head.predict(codes)]
    names = [str(label) for label in head.classes_]
    return [dict(zip(names, map(float, row), strict=True)) for row in head.predict_proba(codes)]


def is_column(held: object) -> bool:
    """Whether a word means a column of the embeddings table; a head folder of that name comes first."""
    if not isinstance(held, str) or os.sep in held:
        return False
    return not (Path(held) / DOCUMENT_NAME).is_file()


def read_columns(
    names: Sequence[str], *, head: FittedHead, embeddings: pd.DataFrame | str | Path | None
) -> list[FittedHead]:
    """A ridge probe a column, fitted on the training scans: its direction is that of the column.

    Args:
        names: Columns of numbers.
        head: The head that is moved along; its own embeddings are taken where none are given.
        embeddings: Embeddings table, or its file.

    Raises:
        FileNotFoundError: There is no such table.
        CheckpointError: Another pipeline made it.
        InputError: No such column, or no numbers that vary in it.
    """
    if not names:
        return []
    frame = embeddings if isinstance(embeddings, pd.DataFrame) else _read(names[0], head, embeddings)
    if frame.attrs.get("pipeline") != head.pipeline:
        raise CheckpointError(
            f"The embeddings {frame.attrs.get('path', 'given')} were made by pipeline "
            f"{str(frame.attrs.get('pipeline'))[:12]}, but the head belongs to pipeline "
            f"{head.pipeline[:12]}. Make them with this one: ldae embed"
        )
    return [fit_column(frame, name) for name in names]


def _read(name: str, head: FittedHead, embeddings: str | Path | None) -> pd.DataFrame:
    if embeddings is not None:
        return read_embeddings(embeddings)
    noted = head.provenance.get(EMBEDDINGS)
    path = None if noted is None or head.folder is None else head.folder / noted
    if path is None or not path.is_file():
        raise FileNotFoundError(
            f"{name!r} is no head folder, and a column needs the embeddings table, which is not at "
            f"{path}. Give it (--embeddings FILE), or the path of a head folder."
        )
    return read_embeddings(path)


def fit_column(frame: pd.DataFrame, name: str) -> FittedHead:
    """A ridge probe of a column of numbers, fitted on the training scans, or on all where there is no split.

    Raises:
        InputError: No such column, or no numbers that vary in it.
    """
    numbers = [str(column) for column in frame.columns if _holds_numbers(frame, str(column))]
    if name not in numbers:
        raise InputError(
            "hold must be a head folder or a column of numbers in "
            f"{frame.attrs.get('path', 'the embeddings')}, got {name!r}. It has: {', '.join(numbers)}. For "
            "classes fit a head: ldae probe"
        )
    rows = frame[frame[name].notna()]
    if "split" in rows and rows["split"].notna().any():
        rows = rows[rows["split"] == FITTED_ON]
    if rows[name].nunique() < 2:
        raise InputError(f"A held column must vary over the training scans, got {name!r}, which does not.")
    probe = RidgeProbe().fit(code_array(rows), rows[name].to_numpy(dtype=float), groups=rows["subject"])
    return fitted_head(
        probe,
        std=frame.attrs["code_std"],
        pipeline=frame.attrs["pipeline"],
        provenance={"target": name, "fitted_on": FITTED_ON},
    )


def _holds_numbers(frame: pd.DataFrame, name: str) -> bool:
    column = frame[name]
    return is_numeric_dtype(column) and not is_bool_dtype(column) and not FEATURE_COLUMN.fullmatch(name)
