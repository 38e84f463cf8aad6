# SPDX-License-Identifier: Apache-2.0
"""What was predicted of each scan as a table, and the figures that judge it on test subjects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from numpy.typing import ArrayLike

from ldae.data.artefact import atomic_path, read_json, write_json
from ldae.evaluation.bootstrap import DEFAULT_BOOTSTRAP, Bootstrap
from ldae.evaluation.metrics import classification_metrics, regression_metrics

METRICS = "metrics.json"
PREDICTIONS = "predictions.csv"
FITTED_ON, JUDGED_ON = "train", "test"
POSITIVE = "AD"


def predictions_table(
    rows: pd.DataFrame, *, target: str, predicted: ArrayLike, chances: pd.DataFrame | None = None
) -> pd.DataFrame:
    """One row a scan: subject, session, split, y_true, y_pred, and p_<class> of each class.

    Args:
        rows: subject, session, split and target of each scan, with the index 0, 1, ...
        target: The column that is predicted.
        predicted: Class or number predicted of each scan [N].
        chances: Probability of each class [N, C], a column a class; None for numbers.
    """
    table = rows[["subject", "session", "split"]].assign(y_true=rows[target], y_pred=predicted)
    return table if chances is None else table.join(chances.add_prefix("p_"))


def held_out_metrics(
    table: pd.DataFrame,
    *,
    target: str,
    chances: pd.DataFrame | None = None,
    positive: Any = None,
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
) -> dict[str, Any]:
    """Metrics of the test scans, each with `_ci`, and from how many scans they come.

    Args:
        table: What `predictions_table` made.
        target: The column that is predicted.
        chances: As it was given there.
        positive: The positive class of two; the last when None.
        bootstrap: How intervals are made.

    Raises:
        InputError: Too few subjects, or one class only.
    """
    test = table["split"] == JUDGED_ON
    truth, subjects = table.loc[test, "y_true"], table.loc[test, "subject"]
    metrics: dict[str, Any]
    if chances is not None:
        metrics = classification_metrics(
            truth,
            chances[test],
            classes=chances.columns.to_numpy(),
            subjects=subjects,
            positive_label=positive,
            bootstrap=bootstrap,
        )
    else:
        metrics = regression_metrics(
            truth.astype(float), table.loc[test, "y_pred"], subjects=subjects, bootstrap=bootstrap
        )
    counts = {
        "target": target,
        "scans_train": int((table["split"] == FITTED_ON).sum()),
        "scans_test": int(test.sum()),
        "subjects_test": int(subjects.nunique()),
    }
    return {**metrics, **counts}


def write_predictions(folder: Path, *, metrics: dict[str, Any], predictions: pd.DataFrame) -> list[Path]:
    """Write predictions.csv and metrics.json, and return their paths."""
    with atomic_path(folder / PREDICTIONS) as temporary:
        predictions.to_csv(temporary, index=False)
    write_json(folder / METRICS, metrics)
    return [folder / PREDICTIONS, folder / METRICS]


def read_predictions(folder: str | Path) -> pd.DataFrame:
    """What a head said of every scan; classes are words as they were written, also "NA", "None" or "01".

    Raises:
        FileNotFoundError: There is none; the message says what makes it.
    """
    path = Path(folder) / PREDICTIONS
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing. Run first: ldae probe")
    columns = pd.read_csv(path, nrows=0).columns
    words = ["subject", "session", "split"]
    if any(name.startswith("p_") for name in columns):
        words += ["y_true", "y_pred"]
    numbers = {name: [""] for name in columns if name not in words}
    return pd.read_csv(path, dtype=dict.fromkeys(words, str), keep_default_na=False, na_values=numbers)


def read_metrics(folder: str | Path) -> dict[str, Any]:
    """The metrics of a head folder.

    Raises:
        FileNotFoundError: There are none; the message says what makes them.
    """
    path = Path(folder) / METRICS
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing. Run first: ldae probe")
    metrics: dict[str, Any] = read_json(path)
    return metrics
