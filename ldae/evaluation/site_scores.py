# SPDX-License-Identifier: Apache-2.0
"""Scores of heads by site and together, and what one fit or head has over another on the same scans."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ldae.evaluation.bootstrap import Weights, with_intervals
from ldae.evaluation.head_choice import LINEAR, MODULATED
from ldae.evaluation.metrics import ClassStatistic, classification_statistic
from ldae.evaluation.predictions import POSITIVE
from ldae.evaluation.site_folds import ALL, ARMS, AS_FEW, WITHOUT
from ldae.evaluation.site_heads import INFORMED, MATCHED

POOLED = "pooled"
MEASURED = ("balanced_accuracy", "auc", "nll", "brier", "ece")
DIFFERED = ("balanced_accuracy", "auc", "nll", "brier")
RIVALS = ((INFORMED, MODULATED), (MODULATED, MATCHED))
SCAN = ["subject", "session", "site"]

Row = dict[str, Any]


def judged_rows(said: pd.DataFrame) -> Iterator[Row]:
    """A row a head, kind of fit and site, and one for all sites together; figures are means over seeds."""
    for (head, arm), rows in said.groupby(["head", "fitted"], sort=False):
        for site, part in [(POOLED, rows), *rows.groupby("site")]:
            yield {"head": head, "fitted": arm, "site": site} | _measured(part)


def _measured(part: pd.DataFrame) -> Row:
    one, statistic = _of_one_seed(part), _statistic(part)
    metrics: dict[str, Any] = with_intervals(statistic.compute, one["subject"], valid=statistic.complete)
    row: Row = {"scans": len(one), "subjects": one["subject"].nunique()}
    row["fitted_scans"] = part["fitted_scans"].mean()
    for name in MEASURED:
        row |= _with_ends(name, metrics)
    each = [_nll(own) for _, own in part.groupby("seed")]
    return row | {"nll_lowest": min(each), "nll_highest": max(each)}


def difference_rows(said: pd.DataFrame) -> Iterator[Row]:
    """Paired differences on the same scans, pooled over sites: of kinds of fit, and of heads."""
    heads = list(dict.fromkeys(said["head"]))
    pairs = [((head, WITHOUT), (head, arm)) for head in heads for arm in (ALL, AS_FEW)]
    rivals = [*RIVALS, *((head, LINEAR) for head in heads if head != LINEAR)]
    pairs += [
        ((ours, arm), (theirs, arm))
        for ours, theirs in rivals
        for arm in ARMS
        if {ours, theirs} <= set(heads)
    ]
    parts = dict(iter(said.groupby(["head", "fitted"])))
    for one, other in pairs:
        found = _paired(parts[one], parts[other])
        named = {"head": one[0], "fitted": one[1], "against_head": other[0], "against_fitted": other[1]}
        for name in DIFFERED:
            low, high = found[f"{name}_ci"]
            yield {**named, "metric": name, "value": found[name], "low": low, "high": high}


def _paired(one: pd.DataFrame, other: pd.DataFrame) -> dict[str, Any]:
    """Metrics of one minus those of the other, each with its interval over subjects."""
    ours, theirs = (_statistic(part) for part in (one, other))
    return with_intervals(
        lambda weights: {
            name: value - theirs.compute(weights)[name] for name, value in ours.compute(weights).items()
        },
        _of_one_seed(one)["subject"],
        valid=ours.complete,
    )


def _statistic(part: pd.DataFrame) -> ClassStatistic:
    """Scores of scans, each the mean over seeds."""
    each = [
        classification_statistic(own["y_true"], _chances(own), **_classes(own))
        for _, own in part.sort_values(SCAN).groupby("seed")
    ]

    def compute(weights: Weights) -> dict[str, NDArray[np.float64]]:
        found = [one.compute(weights) for one in each]
        return {name: np.mean([scores[name] for scores in found], axis=0) for name in found[0]}

    return ClassStatistic(compute, each[0].complete)


def _of_one_seed(part: pd.DataFrame) -> pd.DataFrame:
    """The scans once, in the order of their scores."""
    return part[part["seed"] == part["seed"].min()].sort_values(SCAN)


def _nll(part: pd.DataFrame) -> float:
    scores = _statistic(part).compute(np.ones((1, len(part))))
    return float(scores["nll"][0])


def _chances(part: pd.DataFrame) -> pd.DataFrame:
    return part[[name for name in part if name.startswith("p_")]]


def _classes(part: pd.DataFrame) -> dict[str, Any]:
    classes = [name.removeprefix("p_") for name in _chances(part)]
    return {"classes": classes, "positive_label": POSITIVE if POSITIVE in classes else None}


def _with_ends(name: str, metrics: dict[str, Any]) -> Row:
    low, high = metrics[f"{name}_ci"]
    return {name: metrics[name], f"{name}_low": low, f"{name}_high": high}
