# SPDX-License-Identifier: Apache-2.0
"""Drawn scans as features, judged against real ones: likeness, variety, copies, and what they teach."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from ldae.evaluation.bootstrap import mean_with_interval
from ldae.evaluation.predictions import FITTED_ON, JUDGED_ON
from ldae.evaluation.probes import judge_probe, make_probe
from ldae.evaluation.sample_metrics import frechet_distance, kernel_distance, nearest, precision_recall

COMPONENTS = 32
CLOSE = 5
FEWEST_OF_CLASS = 10

Features = NDArray[np.float64]  # [N, D]


@dataclass(frozen=True)
class Reference:
    """Real scans; features are codes with unit variance per number over the training scans.

    Attributes:
        train: Features of the training scans.
        train_rows: Their rows.
        held: Features of held-out scans, one a subject.
        test: Features of every scan of that split.
        test_rows: Their rows.
        condition: Column of the classes, or None.
        classes: The classes that a probe tells apart; with fewer than two there is no probe.
        seed: Seed of the probe's folds.
    """

    train: Features
    train_rows: pd.DataFrame
    held: Features
    test: Features
    test_rows: pd.DataFrame
    condition: str | None
    classes: tuple[str, ...]
    seed: int = 0

    @cached_property
    def components(self) -> PCA:
        """The first 32 principal components of the training scans, fewer where there are fewer."""
        return PCA(min(COMPONENTS, *self.train.shape), svd_solver="full").fit(self.train)

    @cached_property
    def near(self) -> float:
        """Distance to the nearest training scan that 5 % of held-out scans fall below."""
        return float(np.percentile(nearest(self.test, self.train)[0], CLOSE))


@dataclass(frozen=True)
class Drawn:
    """A set of scans that were drawn in one way.

    Attributes:
        method: How they were drawn.
        space: "code" as drawn, or "scan": decoded and embedded again.
        features: Their features [n, D].
        classes: Class that each was drawn from, None for any.
        kept: Share of the codes' variance that decoding and embedding bring back; None where nothing was
            decoded.
    """

    method: str
    space: str
    features: Features
    classes: tuple[str | None, ...]
    kept: float | None = None


def judge(drawn: Drawn, reference: Reference) -> dict[str, Any]:
    """The row of a set of drawn scans: figures by name, and their intervals with `_ci` behind.

    Raises:
        InputError: Fewer than four scans on either side.
    """
    kid, kid_interval = kernel_distance(reference.held, drawn.features)
    inside, covered = precision_recall(reference.held, drawn.features)
    precision, precision_interval = mean_with_interval(inside, np.arange(len(inside)))
    recall, recall_interval = mean_with_interval(covered, np.arange(len(covered)))
    distances, _ = nearest(drawn.features, reference.train)
    reduced = (reference.components.transform(part) for part in (reference.held, drawn.features))
    return {
        "n": len(drawn.features),
        "kid": kid,
        "kid_ci": kid_interval,
        "fid": frechet_distance(*reduced),
        "precision": precision,
        "precision_ci": precision_interval,
        "recall": recall,
        "recall_ci": recall_interval,
        "nearest": float(np.median(distances)),
        "close": float((distances < reference.near).mean()),
        "kept": drawn.kept,
        **judge_as_training(drawn.features, drawn.classes, reference=reference),
    }


def judge_as_training(
    features: Features, classes: tuple[str | None, ...], *, reference: Reference, subjects: Any = None
) -> dict[str, Any]:
    """AUC on the held-out real scans of a linear probe that was fitted on these, with its interval.

    Args:
        features: Features to fit on [n, D].
        classes: Class of each.
        reference: Whom to judge it on.
        subjects: Subject of each; None where every scan is of its own.

    Returns:
        "auc" and "auc_ci", or nothing where a class has fewer than ten scans to fit on, or none to judge on.
    """
    column = reference.condition
    if column is None or len(reference.classes) < 2:
        return {}
    names = range(len(features)) if subjects is None else subjects
    fitted = pd.DataFrame({"subject": names, column: list(classes)}).assign(session="1", split=FITTED_ON)
    judged = reference.test_rows[["subject", "session", column]].assign(split=JUDGED_ON)
    rows = pd.concat([fitted.astype({"subject": str}), judged], ignore_index=True)
    used = rows[column].isin(reference.classes).to_numpy()
    counts = rows[used].groupby(["split", column]).size()
    enough = {FITTED_ON: FEWEST_OF_CLASS, JUDGED_ON: 1}
    if any(
        counts.get((part, name), 0) < least for part, least in enough.items() for name in reference.classes
    ):
        return {}
    chosen = rows[used].reset_index(drop=True)
    both = np.concatenate([features, reference.test])[used]
    probe = make_probe(chosen[column], seed=reference.seed)
    metrics, _ = judge_probe(probe, chosen, features=both, target=column)
    return {"auc": metrics["auc"], "auc_ci": metrics["auc_ci"]}


def nearest_rows(drawn: Drawn, reference: Reference) -> pd.DataFrame:
    """One row a drawn scan: its class and its nearest training scan."""
    distances, places = nearest(drawn.features, reference.train)
    found = reference.train_rows.iloc[places][["subject", "session", "path"]].reset_index(drop=True)
    told = {"method": drawn.method, "space": drawn.space, "sample": range(len(distances))}
    table = pd.DataFrame({**told, "class": list(drawn.classes), "distance": distances})
    return table.join(found.add_prefix("nearest_"))
