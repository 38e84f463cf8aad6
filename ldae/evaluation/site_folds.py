# SPDX-License-Identifier: Apache-2.0
"""Which scans a head is fitted on and judged on when a site is left out, and when it is not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ldae.errors import InputError
from ldae.evaluation.predictions import FITTED_ON, JUDGED_ON

WITHOUT, ALL, AS_FEW = "without the site", "with all sites", "with as few subjects of all sites"
ARMS = (WITHOUT, ALL, AS_FEW)
FEWEST = 5
"""Subjects of each class that a site needs to be judged, and that the others need to be fitted on."""
SHOWN = 3


@dataclass(frozen=True)
class Fold:
    """A fit, and the scans that it is judged on; no subject is on both sides.

    Attributes:
        arm: One of `ARMS`.
        train: Scans to fit on.
        test: Scans to judge on.
    """

    arm: str
    train: pd.DataFrame
    test: pd.DataFrame


def known_sites(rows: pd.DataFrame, *, by: str) -> pd.DataFrame:
    """The scans whose site is known, the site as a text: numbered sites are names, not amounts.

    Raises:
        InputError: No such column, or fewer than two sites.
    """
    path = rows.attrs.get("path", "the embeddings")
    if by not in rows.columns:
        raise InputError(f"by must be a column of {path}, got {by!r}. Name one, such as --by site.")
    known = rows[rows[by].notna()].assign(**{by: lambda table: table[by].astype(str)})
    sites = sorted(set(known.loc[known["split"].isin([FITTED_ON, JUDGED_ON]), by]))
    if len(sites) < 2:
        raise InputError(
            f"by must tell at least two sites apart, got {by!r} with {len(sites)} in splits {FITTED_ON} "
            f"and {JUDGED_ON} of {path}. Name another column."
        )
    return known


def judged_sites(rows: pd.DataFrame, *, by: str, target: str) -> tuple[list[str], list[str]]:
    """The sites that can be left out and judged, and a sentence on each that cannot.

    Args:
        rows: Scans with a known site and target.
        by: The column with the site.
        target: The column that is predicted.

    Raises:
        InputError: There is none to judge.
    """
    faults = {
        site: _fault(rows, by=by, site=site, target=target)
        for site in sorted(set(rows.loc[rows["split"].isin([FITTED_ON, JUDGED_ON]), by]))
    }
    sites = [site for site, fault in faults.items() if fault is None]
    said = [f"{by} {site} is not judged: {fault}." for site, fault in faults.items() if fault is not None]
    if not sites:
        raise InputError(
            f"by must have a value that can be left out, got none of {len(said)} in {by!r}. "
            f"{' '.join(said[:SHOWN])}{' ...' if len(said) > SHOWN else ''}"
        )
    return sites, said


def make_folds(rows: pd.DataFrame, *, by: str, sites: list[str], target: str, seed: int) -> Iterator[Fold]:
    """All fits: one on every site, and for each site one without it and one on as few subjects of any site.

    Fitted are training scans, judged are test scans: the encoder knows the scans of the other splits. The
    third kind tells what is lost because a site is foreign from what is lost because it leaves fewer scans.

    Args:
        rows: Scans with a known site and target, each subject in one split.
        by: The column with the site.
        sites: The sites to leave out.
        target: The column that is predicted.
        seed: Draws the subjects of the third kind.
    """
    train, test = (rows[rows["split"] == split] for split in (FITTED_ON, JUDGED_ON))
    yield Fold(ALL, train, test[test[by].isin(sites)])
    for place, site in enumerate(sites):
        own, others = test[test[by] == site], train[train[by] != site]
        yield Fold(WITHOUT, others, own)
        generator = np.random.default_rng([seed, place])
        yield Fold(AS_FEW, _as_few(train, others, target=target, generator=generator), own)


def _as_few(
    train: pd.DataFrame, others: pd.DataFrame, *, target: str, generator: np.random.Generator
) -> pd.DataFrame:
    """Scans of subjects of any site, as many of each class (that of their first scan) as `others` has."""
    subjects = train.drop_duplicates("subject").set_index("subject")[target]
    wanted = subjects.loc[others["subject"].unique()].value_counts()
    chosen: list[Any] = []
    for label, count in wanted.sort_index().items():
        alike = np.sort(subjects.index[subjects == label].to_numpy())
        chosen += generator.permutation(alike)[:count].tolist()
    return train[train["subject"].isin(chosen)]


def _fault(rows: pd.DataFrame, *, by: str, site: str, target: str) -> str | None:
    here = rows[by] == site
    classes = sorted(set(rows[target]))
    parts = {
        "its test scans": rows[here & (rows["split"] == JUDGED_ON)],
        "the training scans of the others": rows[~here & (rows["split"] == FITTED_ON)],
    }
    for name, part in parts.items():
        for label in classes:
            subjects = part.loc[part[target] == label, "subject"].nunique()
            if subjects < FEWEST:
                return f"{name} are of {subjects} subjects with {label}, {FEWEST} of each class are needed"
    return None
