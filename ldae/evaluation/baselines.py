# SPDX-License-Identifier: Apache-2.0
"""What a code is compared to: principal components of the raw voxels, and the known anatomy itself."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ldae.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

ORACLE_COLUMNS = ("subject", "split", "diagnosis", "age", "ventricle_ml")
ORACLE_C = 1.0
OVERSAMPLING = 10  # directions beyond those that are wanted
POWER_ITERATIONS = 6
FAINT = 1e-6  # of the strongest direction: what is fainter is rounding
LEAST_VOLUMES = 32  # at a time: each pass reads the directions again, which are as large as so many volumes
BLOCK_VOXELS = 2**22
VOXELS_AT_ONCE = 2**13

Volumes = Sequence[NDArray[np.floating]] | NDArray[np.floating]


def voxel_pca_features(
    train_volumes: Volumes, volumes: Volumes, *, n_features: int, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Principal components of the voxels, fitted on training scans only.

    The same probe on these features is what a semantic code of the same length has to beat. Volumes are gone
    through several times, some at a time, by randomised power iteration, made orthonormal again each time
    (Halko, Martinsson and Tropp 2011, section 4.5 and algorithm 5.1): room is taken for `n_features` volumes,
    however many scans there are. scikit-learn's IncrementalPCA takes that room more than ten times over and
    loses the weaker components, which a probe standardises; SciPy's svds reads every volume 500 times.

    Args:
        train_volumes: Training volumes [N, X, Y, Z].
        volumes: Other volumes [M, X, Y, Z].
        n_features: Number of components.
        seed: Seed of the directions that the iteration starts from.

    Returns:
        Features of the training scans [N, n_features] and of the others [M, n_features]: projections onto
        the same axes. Components that do not vary are zero.

    Raises:
        InputError: No component or more than training scans, volumes of two sizes, or voxels that are not
            finite.
    """
    if not 1 <= n_features <= len(train_volumes):
        raise InputError(
            f"n_features must be from 1 to at most the {len(train_volumes)} training scans, got {n_features}."
        )
    shape = train_volumes[0].shape
    if len(volumes) and volumes[0].shape != shape:
        raise InputError(f"Volumes must have one size, got {shape} for training and {volumes[0].shape}.")
    mean = np.zeros(math.prod(shape), dtype=np.float64)
    for rows in _blocks(train_volumes, shape=shape):
        mean += rows.sum(axis=0, dtype=np.float64) / len(train_volumes)
    train = _Centred(train_volumes, shape, mean.astype(np.float32))
    width = min(n_features + OVERSAMPLING, len(train_volumes))
    scans = np.random.default_rng(seed).standard_normal((len(train_volumes), width)).astype(np.float32)
    for _ in range(POWER_ITERATIONS):
        scans = np.linalg.qr(train.times(train.transposed_times(scans)))[0]
    axes = _orthonormal(train.transposed_times(scans))
    learned = train.times(axes)
    turn = np.linalg.svd(learned, full_matrices=False)[2][:n_features].T
    missing = ((0, 0), (0, n_features - turn.shape[1]))
    others = _Centred(volumes, shape, train.mean).times(axes)
    return np.pad(learned @ turn, missing), np.pad(others @ turn, missing)


def _orthonormal(columns: NDArray[np.float32]) -> NDArray[np.float32]:
    """An orthonormal basis of what [V, K] columns span, in their place: there is no room for a second."""
    parts = _tiles(len(columns))
    gram = np.zeros((columns.shape[1],) * 2)
    for part in parts:
        rows = columns[part].astype(np.float64)
        gram += rows.T @ rows
    squares, turn = np.linalg.eigh(gram)
    kept = squares > FAINT**2 * squares[-1]
    scaled = (turn[:, kept] / np.sqrt(squares[kept])).astype(np.float32)
    for part in parts:
        columns[part, : scaled.shape[1]] = columns[part] @ scaled
    return columns[:, : scaled.shape[1]]


def _tiles(voxels: int) -> list[slice]:
    return [slice(start, start + VOXELS_AT_ONCE) for start in range(0, voxels, VOXELS_AT_ONCE)]


@dataclass(frozen=True)
class _Centred:
    """Volumes less their mean as a matrix X [N, V] that is never in memory as a whole."""

    volumes: Volumes
    shape: tuple[int, ...]
    mean: NDArray[np.float32]

    def times(self, right: NDArray[np.float32]) -> NDArray[np.float32]:
        """X @ right."""
        return np.concatenate([rows @ right for rows in self._rows()]) if len(self.volumes) else right[:0]

    def transposed_times(self, right: NDArray[np.float32]) -> NDArray[np.float32]:
        """X^T @ right."""
        total, place = np.zeros((len(self.mean), right.shape[1]), dtype=np.float32), 0
        for rows in self._rows():
            for tile in _tiles(len(self.mean)):  # a product as large as the total would take its room twice
                total[tile] += rows[:, tile].T @ right[place : place + len(rows)]
            place += len(rows)
        return total

    def _rows(self) -> Iterator[NDArray[np.float32]]:
        for rows in _blocks(self.volumes, shape=self.shape):
            rows -= self.mean
            yield rows


def _blocks(volumes: Volumes, *, shape: tuple[int, ...]) -> Iterator[NDArray[np.float32]]:
    """Some volumes at a time, each a row [B, V]."""
    voxels = math.prod(shape)
    size = max(LEAST_VOLUMES, BLOCK_VOXELS // voxels)
    for start in range(0, len(volumes), size):
        rows = np.empty((min(size, len(volumes) - start), voxels), dtype=np.float32)
        for place, row in enumerate(rows):
            volume = volumes[start + place]
            if volume.shape != shape:
                raise InputError(f"Volumes must have one size, got {shape} and {volume.shape}.")
            row[:] = volume.ravel()
            if not np.isfinite(row).all():
                raise InputError("Volumes must be finite, got NaN or infinite voxels.")
        yield rows


def oracle_auc(frame: pd.DataFrame) -> float:
    """AUC of AD against CN on test scans from the true ventricle volume and age: what any code could reach.

    A logistic regression on log volume and age, fitted on the training scans.

    Args:
        frame: Cohort with the columns subject, split, diagnosis, age and ventricle_ml.

    Raises:
        InputError: A column is missing, or a split lacks AD or CN scans.
    """
    from sklearn.metrics import roc_auc_score

    from ldae.heads import LinearProbe

    missing = [column for column in ORACLE_COLUMNS if column not in frame.columns]
    if missing:
        raise InputError(f"The oracle needs the columns {list(ORACLE_COLUMNS)}, got none named {missing}.")
    known = frame[frame["diagnosis"].isin(["CN", "AD"])]
    train, test = known[known["split"] == "train"], known[known["split"] == "test"]
    for name, part in (("train", train), ("test", test)):
        if part["diagnosis"].nunique() < 2:
            raise InputError(
                f"Split {name!r} must hold AD and CN scans, got {sorted(set(part['diagnosis']))}."
            )
    probe = LinearProbe(regularisation=(ORACLE_C,), positive_label="AD")
    probe.fit(_factors(train), train["diagnosis"].to_numpy())
    chance = probe.predict_proba(_factors(test))[:, list(probe.classes_).index("AD")]
    return float(roc_auc_score(test["diagnosis"].to_numpy() == "AD", chance))


def _factors(frame: pd.DataFrame) -> NDArray[np.float64]:
    return np.column_stack([np.log(frame["ventricle_ml"].to_numpy(float)), frame["age"].to_numpy(float)])
