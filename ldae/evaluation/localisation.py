# SPDX-License-Identifier: Apache-2.0
"""Whether maps of a scan point at the same voxels, and at those that truly change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from ldae.evaluation.bootstrap import mean_with_interval

Voxels = NDArray[np.floating]


def localise(
    maps: Mapping[str, Voxels],
    *,
    brain: NDArray[np.bool_],
    reference: str,
    changed: NDArray[np.bool_] | None = None,
) -> list[dict[str, Any]]:
    """How large each map is where, sign aside, a row a map.

    Args:
        maps: Maps of one scan by name, [X, Y, Z].
        brain: Voxels to look at.
        reference: Name of the map that the others are compared with.
        changed: Voxels that truly change, where these are known; some of the brain, not all.

    Returns:
        map, agreement (Spearman's correlation with the reference over voxels) and, with `changed`, auc (of
        telling changed voxels from others) and concentration (share of the map in the changed voxels over
        their share of the brain; 1 is what an even map has).
    """
    sizes = {name: np.abs(np.asarray(values, dtype=np.float64))[brain] for name, values in maps.items()}
    rows = []
    for name, size in sizes.items():
        row = {"map": name, "agreement": _correlation(size, sizes[reference])}
        if changed is not None and 0 < changed[brain].sum() < brain.sum():
            inside = changed[brain]
            row["auc"] = float(roc_auc_score(inside, size))
            row["concentration"] = float(size[inside].sum() / max(size.sum(), 1e-300) / inside.mean())
        rows.append(row)
    return rows


def localisation_table(rows: pd.DataFrame, *, names: Sequence[str]) -> pd.DataFrame:
    """Means over scans with their 95 % intervals, a row a map; one subject has no interval.

    Args:
        rows: Those of `localise` of all scans, with the column subject.
        names: Order of the maps.
    """
    columns = [name for name in ("agreement", "auc", "concentration") if name in rows]
    table = []
    for name in names:
        of = rows[rows["map"] == name]
        row: dict[str, Any] = {"map": name, "scans": len(of)}
        for column in columns:
            known = of.dropna(subset=[column])
            row[column] = known[column].mean()
            if known["subject"].nunique() > 1:
                _, interval = mean_with_interval(known[column].to_numpy(), known["subject"])
                row |= {f"{column}_low": interval[0], f"{column}_high": interval[1]}
        table.append(row)
    return pd.DataFrame(table)


def _correlation(one: Voxels, other: Voxels) -> float:
    return float(spearmanr(one, other).statistic) if np.ptp(one) > 0 and np.ptp(other) > 0 else 0.0
