# SPDX-License-Identifier: Apache-2.0
"""A change of diagnosis or age: to a subject's factors, and what it comes to in a population.

What a population says is a least-squares fit on scans that are not judged: how much a head's output, or each
voxel, goes up on average with the change. Nothing here looks at a true counterfactual.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ldae.data.phantom_factors import DIAGNOSES, Factors, counterfactual
from ldae.data.phantom_truth import KnownCohort
from ldae.errors import InputError

AGES = (55.0, 88.0)
YEARS = 15.0  # older or younger, whichever stays within AGES


@dataclass(frozen=True)
class Change:
    """One changed column of each subject's row.

    Attributes:
        column: "diagnosis" or "age".
        rows: The scans as they are.
        wanted: The value that each is to have instead [N].
    """

    column: str
    rows: pd.DataFrame
    wanted: pd.Series

    @classmethod
    def of(cls, column: str, rows: pd.DataFrame) -> Change:
        """AD becomes CN and everybody else AD; or 15 years more or less.

        Raises:
            InputError: Another column.
        """
        if column == "diagnosis":
            return cls(column, rows, rows[column].map(lambda found: "CN" if found == "AD" else "AD"))
        if column == "age":
            middle = sum(AGES) / 2
            return cls(column, rows, rows[column].map(lambda age: age + (YEARS if age < middle else -YEARS)))
        raise InputError(
            f"The true scan is known for a change of diagnosis or age, got a head of {column!r}. "
            "Give a head of one of these."
        )

    def take(self, places: list[int]) -> Change:
        """That of the scans in these places."""
        return Change(self.column, self.rows.iloc[places], self.wanted.iloc[places])

    def factors(self, known: KnownCohort) -> list[Factors]:
        """What the scans would have been rendered from.

        Raises:
            InputError: A row is not as the cohort was made.
        """
        drawn = [known.factors(row) for row in self.rows.to_dict("records")]
        if self.column == "diagnosis":
            return [counterfactual(f, diagnosis=name) for f, name in zip(drawn, self.wanted, strict=True)]
        return [counterfactual(f, age=age) for f, age in zip(drawn, self.wanted, strict=True)]

    @property
    def sign(self) -> NDArray[np.float64]:
        """1 where the ventricles should grow, -1 where they should shrink [N]."""
        if self.column == "diagnosis":
            return np.where(self.wanted == "AD", 1.0, -1.0)
        return np.asarray(np.sign((self.wanted - self.rows["age"]).to_numpy(dtype=float)))

    @property
    def design(self) -> NDArray[np.float64]:
        """Difference that the change makes to `_design` of the rows [N, P]."""
        changed = self.rows.assign(**{self.column: self.wanted})
        return _design(changed, self.column) - _design(self.rows, self.column)

    def shift(self, values: NDArray[np.float64], *, population: pd.DataFrame) -> NDArray[np.float64]:
        """By how much a value of each scan would change, going by a population [N].

        Args:
            values: The value of each of the population's scans [M].
            population: Their rows.
        """
        slopes, *_ = np.linalg.lstsq(_design(population, self.column), values, rcond=None)
        return np.asarray(self.design @ slopes)

    def image(
        self, volumes: Iterable[NDArray[np.floating]], *, population: pd.DataFrame
    ) -> NDArray[np.float32]:
        """The mean difference image of each scan's change [N, X, Y, Z], volumes read one at a time.

        Args:
            volumes: Volumes of the population, [X, Y, Z] each.
            population: Their rows.
        """
        weights = self.design @ np.linalg.pinv(_design(population, self.column))  # [N, M]
        # Subjects of one change share an image: few different rows, whatever N is.
        distinct, places = np.unique(weights.round(12), axis=0, return_inverse=True)
        total: NDArray[np.float64] | float = 0.0
        for column, volume in zip(distinct.T, volumes, strict=True):
            total = total + np.multiply.outer(column, np.asarray(volume, dtype=np.float64))
        return np.asarray(total, dtype=np.float32)[places.ravel()]


def _design(rows: pd.DataFrame, column: str) -> NDArray[np.float64]:
    """One indicator a diagnosis, or a constant and the age, [N, P]."""
    if column == "diagnosis":
        return np.stack([(rows[column] == name).to_numpy(dtype=float) for name in DIAGNOSES], axis=1)
    return np.stack([np.ones(len(rows)), rows[column].to_numpy(dtype=float)], axis=1)
