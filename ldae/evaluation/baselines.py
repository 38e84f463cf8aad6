# SPDX-License-Identifier: Apache-2.0
"""What a code is compared to: principal components of the raw voxels, and the known anatomy itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ldae.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

ORACLE_COLUMNS = ("subject", "split", "diagnosis", "age", "ventricle_ml")
ORACLE_C = 1.0


def voxel_pca_features(
    train_volumes: NDArray[np.floating],
    volumes: NDArray[np.floating],
    *,
    n_features: int,
    seed: int = 0,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Principal components of the voxels, fitted on training scans only.

    The same probe on these features is what a semantic code of the same length has to beat.

    Args:
        train_volumes: Training volumes [N, X, Y, Z].
        volumes: Other volumes [M, X, Y, Z].
        n_features: Number of components.
        seed: Seed of the randomised decomposition (Halko et al. 2011).

    Returns:
        Features of the training scans [N, n_features] and of the others [M, n_features].

    Raises:
        InputError: More components than training scans, or volumes of two sizes.
    """
    from sklearn.decomposition import PCA

    if train_volumes.shape[1:] != volumes.shape[1:]:
        raise InputError(
            f"Volumes must have one size, got {train_volumes.shape[1:]} for training and {volumes.shape[1:]}."
        )
    if n_features > len(train_volumes):
        raise InputError(
            f"n_features must be at most the {len(train_volumes)} training scans, got {n_features}."
        )
    model = PCA(n_features, svd_solver="randomized", random_state=seed)
    train = model.fit_transform(_rows(train_volumes))
    return train.astype(np.float32), model.transform(_rows(volumes)).astype(np.float32)


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


def _rows(volumes: NDArray[np.floating]) -> NDArray[np.float32]:
    return np.asarray(volumes, dtype=np.float32).reshape(len(volumes), -1)
