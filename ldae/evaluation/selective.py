# SPDX-License-Identifier: Apache-2.0
"""Selective prediction: how the error falls when the scans in greatest doubt are referred to a human."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ldae.errors import InputError
from ldae.evaluation.bootstrap import DEFAULT_BOOTSTRAP, Bootstrap, Statistic, Weights, with_intervals

COVERAGES = (0.5, 0.7, 0.8, 0.9, 1.0)


def risk_coverage(wrong: ArrayLike, doubt: ArrayLike) -> pd.DataFrame:
    """The risk-coverage curve.

    Args:
        wrong: Whether the head errs on each scan [N].
        doubt: Its doubt [N]; scans in equal doubt are kept or referred together.

    Returns:
        A row for each number of scans kept: coverage, their share of all; risk, share of errors among them;
        and threshold, the greatest doubt among them.
    """
    errors, doubts = _checked(wrong, doubt)
    order = np.argsort(doubts, kind="stable")
    last = np.flatnonzero(np.diff(doubts[order], append=np.inf) > 0)
    kept = last + 1
    return pd.DataFrame(
        {
            "coverage": kept / len(errors),
            "risk": np.cumsum(errors[order])[last] / kept,
            "threshold": doubts[order][last],
        }
    )


def selective_metrics(
    wrong: ArrayLike, doubt: ArrayLike, *, subjects: ArrayLike, bootstrap: Bootstrap = DEFAULT_BOOTSTRAP
) -> dict[str, Any]:
    """AURC and AUGRC, each with `_ci` over subjects.

    AURC is the mean risk of the kept over all coverages (Geifman and El-Yaniv 2017); AUGRC the mean share of
    all scans that are kept and wrong (Traub et al., arXiv 2407.01032), which weighs every error alike. Lower
    is better; with a doubt that says nothing they are the error rate and half of it.

    Args:
        wrong: Whether the head errs on each scan [N].
        doubt: Its doubt [N]. Scans in equal doubt count as in random order, on average.
        subjects: Subject of each scan [N].
        bootstrap: How intervals are made.
    """
    return with_intervals(selective_statistic(wrong, doubt), subjects, bootstrap=bootstrap)


def selective_statistic(wrong: ArrayLike, doubt: ArrayLike) -> Statistic:
    """AURC and AUGRC as a function of the scans' weights; arguments as for `selective_metrics`."""
    errors, doubts = _checked(wrong, doubt)
    order = np.argsort(doubts, kind="stable")
    groups = np.cumsum(np.diff(doubts[order], prepend=-np.inf) > 0) - 1
    starts = np.flatnonzero(np.diff(groups, prepend=-1))

    def statistic(weights: Weights) -> dict[str, NDArray[np.float64]]:
        ordered = weights[:, order]
        sizes = np.add.reduceat(ordered, starts, axis=1)
        lost = np.add.reduceat(ordered * errors[order], starts, axis=1)
        # within equal doubt errors are spread evenly
        rate = np.divide(lost, sizes, out=np.zeros_like(lost), where=sizes > 0)[:, groups]
        kept = np.cumsum(ordered, axis=1) - ordered / 2
        before = (np.cumsum(lost, axis=1) - lost)[:, groups]
        inside = kept - (np.cumsum(sizes, axis=1) - sizes)[:, groups]
        failed = before + rate * inside
        total = weights.sum(axis=1)
        risk = np.divide(failed, kept, out=np.zeros_like(failed), where=kept > 0)
        return {
            "aurc": (ordered * risk).sum(axis=1) / total,
            "augrc": (ordered * failed).sum(axis=1) / total**2,
        }

    return statistic


def _checked(wrong: ArrayLike, doubt: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    errors, doubts = np.asarray(wrong, dtype=np.float64), np.asarray(doubt, dtype=np.float64)
    if errors.ndim != 1 or errors.shape != doubts.shape or not len(errors):
        raise InputError(
            f"wrong and doubt must have one number a scan, got shapes {errors.shape} and {doubts.shape}."
        )
    if not np.isfinite(doubts).all():
        raise InputError("doubt must be finite, got NaN or infinity.")
    return errors, doubts
