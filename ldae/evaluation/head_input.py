# SPDX-License-Identifier: Apache-2.0
"""What a head is given of each scan: its code, with the encoder's depths or its context, or its latent."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ldae.data.latents import LatentStore
from ldae.data.target import is_number
from ldae.errors import InputError
from ldae.evaluation.predictions import FITTED_ON
from ldae.pipeline.embeddings import code_array, depth_array

Levels = dict[str, list[str] | None]
"""Context columns, and the values of each that is no number."""


@dataclass(frozen=True)
class HeadInput:
    """Features of scans.

    Attributes:
        features: [N, F], or latents [N, C, h, w, d].
        depths: Widths of the depths that lie side by side, the code last; None for a code alone.
        context: How many columns at the end are context.
        told: What the head's folder says of them.
    """

    features: NDArray[np.floating]
    depths: tuple[int, ...] | None = None
    context: int = 0
    told: dict[str, Any] = field(default_factory=dict)


def head_input(
    rows: pd.DataFrame,
    *,
    out: Path,
    split: str,
    depths: bool = False,
    latents: str | Path | None = None,
    context: Sequence[str] = (),
) -> HeadInput:
    """The features of scans.

    Args:
        rows: The scans, as in the embeddings.
        out: The head's folder, which names what it was fitted on relative to itself.
        split: Hash of the split that the scans were dealt by.
        depths: Give the encoder's depths too.
        latents: Folder of the latent store; give the spatial latents instead of codes.
        context: Columns that tell of a scan what the code need not, such as site.

    Raises:
        FileNotFoundError: There is no such store, or a latent is missing from it.
        InputError: No such column, no depths, or the store was made for another split.
    """
    if latents is not None:
        told = {"latents": os.path.relpath(latents, out)}
        return HeadInput(latent_array(rows, latents, split=split), told=told)
    if depths:
        features, widths = depth_array(rows)
        return HeadInput(features, depths=tuple(widths), told={"depths": list(widths)})
    if not context:
        return HeadInput(code_array(rows))
    levels = context_levels(rows, context)
    beside = context_array(rows, levels)
    joined = np.concatenate([code_array(rows), beside], axis=1)
    return HeadInput(joined, context=beside.shape[1], told={"context": levels})


def context_levels(rows: pd.DataFrame, columns: Sequence[str]) -> Levels:
    """The values that training scans have in each column; None for a column of numbers.

    Raises:
        InputError: No such column, or one that training scans know nothing of.
    """
    train = rows[rows["split"] == FITTED_ON]
    levels: Levels = {}
    for column in columns:
        if column not in rows.columns:
            raise InputError(f"context must be columns of the embeddings, got {column!r}.")
        known = train[column].dropna()
        if known.empty:
            raise InputError(f"context must be known of some training scan, got none with a {column}.")
        levels[column] = None if is_number(known) else sorted(map(str, set(known)))
    return levels


def context_array(rows: pd.DataFrame, levels: Levels) -> NDArray[np.float64]:
    """Context of scans [N, K]: a number as it is, any other value as a column for each that it may have.

    NaN where a scan's is not known, or has a value that no training scan had.
    """
    columns = []
    for name, values in levels.items():
        if values is None:
            columns.append(rows[name].to_numpy(dtype=float, na_value=np.nan))
            continue
        own = rows[name].astype(object).map(str, na_action="ignore")
        known = own.isin(values).to_numpy()
        columns += [np.where(known, (own == value).to_numpy(dtype=float), np.nan) for value in values]
    return np.column_stack(columns)


def latent_array(rows: pd.DataFrame, folder: str | Path, *, split: str) -> NDArray[np.float64]:
    """The spatial latents of scans, means of their posteriors [N, C, h, w, d].

    Args:
        rows: subject and session of each scan.
        folder: Latent store.
        split: Hash of the split that the scans were dealt by.

    Raises:
        FileNotFoundError: There is no such store, or a latent is missing from it.
        InputError: A scan is not in the store, or the store was made for another split.
    """
    store = LatentStore.of(folder)
    made_for = store.document()["split"]
    if made_for != split:
        raise InputError(
            f"{folder} must be of the split of the embeddings, {split[:12]}, got {made_for[:12]}. "
            "Run again: ldae latents"
        )
    index = store.index()
    keys = {(row.subject, row.session): row.key for row in index.itertuples()}
    scans = list(zip(rows["subject"].astype(str), rows["session"].astype(str), strict=True))
    absent = [scan for scan in scans if scan not in keys]
    if absent:
        raise InputError(
            f"Every scan must have a latent in {folder}, got none of {' '.join(absent[0])}. Run: ldae latents"
        )
    means, _ = store.load([keys[scan] for scan in scans])
    return np.asarray(means.double().numpy())
