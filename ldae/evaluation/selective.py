# SPDX-License-Identifier: Apache-2.0
"""Selective prediction: how the error falls when the scans in greatest doubt are referred to a human."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import digamma

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

    AURC is the mean over i of the risk of the i scans in least doubt (Geifman and El-Yaniv 2017); AUGRC the
    mean share of all scans that are kept and wrong (Traub et al., arXiv 2407.01032), which weighs every error
    alike. Lower is better; with a doubt that says nothing they are the error rate and half of it.

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
    starts = np.flatnonzero(np.diff(doubts[order], prepend=-np.inf) > 0)

    def statistic(weights: Weights) -> dict[str, NDArray[np.float64]]:
        ordered = weights[:, order]
        sizes = np.add.reduceat(ordered, starts, axis=1)
        lost = np.add.reduceat(ordered * errors[order], starts, axis=1)
        kept, failed = np.cumsum(sizes, axis=1) - sizes, np.cumsum(lost, axis=1) - lost
        # within equal doubt errors are spread evenly: the j-th scan has risk (failed + rate j) / (kept + j)
        rate = np.divide(lost, sizes, out=np.zeros_like(lost), where=sizes > 0)
        harmonic = digamma(kept + sizes + 1) - digamma(kept + 1)
        total = weights.sum(axis=1)
        return {
            "aurc": (rate * sizes + (failed - rate * kept) * harmonic).sum(axis=1) / total,
            "augrc": (sizes * (failed + lost / 2)).sum(axis=1) / total**2,
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
