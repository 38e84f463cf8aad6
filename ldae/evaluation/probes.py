# SPDX-License-Identifier: Apache-2.0
"""Heads on semantic codes: fitted on training subjects, judged on held-out ones, kept as folders."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ldae.data.artefact import sha256_file
from ldae.data.split import split_hash
from ldae.data.stamp import is_current, write_stamp
from ldae.data.target import labelled_rows, numbered_classes
from ldae.errors import InputError
from ldae.evaluation.bootstrap import DEFAULT_BOOTSTRAP, Bootstrap
from ldae.evaluation.head_choice import LINEAR, Classifier, check_head, make_head
from ldae.evaluation.head_input import head_input
from ldae.evaluation.predictions import (
    FITTED_ON,
    JUDGED_ON,
    METRICS,
    PREDICTIONS,
    held_out_metrics,
    predictions_table,
    write_predictions,
)
from ldae.heads import Direction, LinearProbe, RidgeProbe
from ldae.pipeline.embeddings import code_array, is_code, read_embeddings
from ldae.pipeline.head_folder import ARRAYS_NAME, DOCUMENT_NAME, fitted_head, save_head

logger = logging.getLogger(__name__)

STAMP = "stamp.json"

Probe = Classifier | RidgeProbe


def fit_probe(
    embeddings: str | Path,
    *,
    target: str,
    out: str | Path,
    classes: Sequence[str] | None = None,
    positive: str | None = None,
    seed: int = 0,
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
    head: str = LINEAR,
    depths: bool = False,
    latents: str | Path | None = None,
    context: Sequence[str] = (),
) -> Path:
    """Fit a head on the training scans, judge it on the test scans, and write its head folder.

    A column of numbers gets a ridge probe, any other a logistic one unless another head is named, whose
    direction in code space is then that of a logistic one. Strengths are chosen by cross-validation over
    training subjects; `val` and `cal` scans take no part and are in predictions.csv
    for whoever needs them. Nothing is done where the folder holds the same already.

    Args:
        embeddings: Table that `ldae embed` wrote, with a split.
        target: Column to predict.
        out: The head folder.
        classes: Classes to tell apart, scans of others are left out. None takes CN and AD of a diagnosis, so
            that MCI is left out, and every class of another column.
        positive: The positive class of two; None takes AD where it is one of them, else the last by name.
        seed: Seed that deals subjects to folds.
        bootstrap: How intervals are made.
        head: One of `ldae.evaluation.head_choice.HEADS`.
        depths: Give the head the encoder's depths too, as `ldae embed --depths` wrote them.
        latents: Folder of the latent store; give the head the spatial latents of the scans, not their codes.
        context: Columns of the embeddings, such as site or age, by which the head hac modulates a code.

    Returns:
        The folder, with the head, metrics.json and predictions.csv; its columns u_<name> are uncertainties.

    Raises:
        FileNotFoundError: There is no such table.
        InputError: No such column, a class without scans, or too few subjects.
    """
    embeddings, out = Path(embeddings), Path(out)
    command = _command(target, classes, positive=positive, seed=seed, bootstrap=bootstrap)
    command += [head, str(depths)] + ([] if latents is None else ["latents"]) + list(context)
    inputs = [embeddings] if latents is None else [embeddings, Path(latents) / "index.csv"]
    if is_current(out / STAMP, command=command, inputs=inputs, outputs=_outputs(out)):
        logger.info("%s is up to date", out)
        return out
    started = time.perf_counter()
    rows, split = _read(embeddings, target=target, classes=classes)
    if pair := numbered_classes(rows[target]):
        logger.warning(
            "%s is regressed, though it holds no numbers but %s. For classes: --classes %s",
            target,
            " and ".join(pair),
            " ".join(pair),
        )
    check_head(head, rows[target], depths=depths, latents=latents is not None, context=bool(context))
    if target in context:
        raise InputError(f"context must leave out the target, got {target!r} as both.")
    given = head_input(rows, out=out, split=split, depths=depths, latents=latents, context=context)
    probe = make_head(
        head,
        rows[target],
        positive=positive,
        seed=seed,
        depths=given.depths,
        latents=latents is not None,
        context=given.context,
    )
    metrics, predictions = judge_probe(
        probe, rows, features=given.features, target=target, bootstrap=bootstrap
    )
    provenance = {
        "target": target,
        "embeddings": os.path.relpath(embeddings, out),
        "embeddings_sha256": sha256_file(embeddings),
        "split": split,
        "fitted_on": FITTED_ON,
        "seed": seed,
        **given.told,
    }
    std = rows.attrs["code_std"]
    fitted = fitted_head(
        probe,  # type: ignore[arg-type]
        std=std,
        pipeline=rows.attrs["pipeline"],
        direction=_linear_directions(probe, rows, target=target, std=std, seed=seed),
        provenance=provenance,
    )
    save_head(out, fitted)
    write_predictions(out, metrics=metrics, predictions=predictions)
    seconds = time.perf_counter() - started
    write_stamp(out / STAMP, command=command, inputs=inputs, outputs=_outputs(out), seconds=seconds)
    return out


def is_fitted(out: str | Path, *, embeddings: str | Path, target: str, seed: int = 0) -> bool:
    """Whether `fit_probe` with no more than these arguments has nothing to do."""
    command = _command(target, None, positive=None, seed=seed, bootstrap=DEFAULT_BOOTSTRAP)
    command += [LINEAR, str(False)]
    out = Path(out)
    return is_current(out / STAMP, command=command, inputs=[embeddings], outputs=_outputs(out))


def _read(embeddings: Path, *, target: str, classes: Sequence[str] | None) -> tuple[pd.DataFrame, str]:
    """The scans of a table that take part, and the hash of its split; the others are let go."""
    frame = read_embeddings(embeddings)
    return select_rows(frame, target=target, classes=classes), split_hash(frame)


def _command(
    target: str,
    classes: Sequence[str] | None,
    *,
    positive: str | None,
    seed: int,
    bootstrap: Bootstrap,
) -> list[str]:
    chosen = None if classes is None else list(classes)
    return ["probe", target, *map(str, (chosen, positive, seed, bootstrap))]


def _outputs(out: Path) -> list[Path]:
    return [out / name for name in (ARRAYS_NAME, DOCUMENT_NAME, METRICS, PREDICTIONS)]


def select_rows(frame: pd.DataFrame, *, target: str, classes: Sequence[str] | None = None) -> pd.DataFrame:
    """The scans with a known target, of the wanted classes, with the `attrs` of the table.

    Raises:
        InputError: No such column, no split, or no scan of a class in the split that needs it.
    """
    plain = frame[[name for name in frame.columns if not is_code(name)]]
    rows = labelled_rows(plain, target=target, classes=classes, splits=(FITTED_ON, JUDGED_ON))
    chosen = frame.loc[rows.index].assign(**{target: rows[target]}).reset_index(drop=True)
    _check_finite(chosen, path=frame.attrs.get("path", "the embeddings"))
    return chosen


def _check_finite(rows: pd.DataFrame, *, path: str | Path) -> None:
    for name in filter(is_code, rows.columns):
        values = rows[name].to_numpy(dtype=float)
        unknown = np.flatnonzero(~np.isfinite(values))
        if len(unknown):
            scan = rows.iloc[unknown[0]]
            raise InputError(
                f"Codes must be finite, got {values[unknown[0]]} in {name} of {scan['subject']} "
                f"{scan['session']} in {path}. Run again: ldae embed"
            )


def make_probe(target: pd.Series[Any], *, positive: str | None = None, seed: int = 0) -> Probe:
    """The linear probe that suits a target: ridge for numbers, logistic for classes, AD positive."""
    return make_head(LINEAR, target, positive=positive, seed=seed)


def _linear_directions(
    probe: Probe, rows: pd.DataFrame, *, target: str, std: Sequence[float], seed: int
) -> NDArray[np.float64] | None:
    """Directions of a linear probe on the same codes, for a head that has none of its own."""
    if hasattr(probe, "direction_"):
        return None
    assert not isinstance(probe, RidgeProbe)
    train = rows[rows["split"] == FITTED_ON]
    linear = LinearProbe(positive_label=probe.positive_label_, random_state=seed)
    linear.fit(code_array(train), train[target].to_numpy(), groups=train["subject"].to_numpy())
    labels = [None] if len(linear.classes_) == 2 else linear.classes_.tolist()
    units = [Direction.from_head(linear, std=std, target_class=label).unit for label in labels]
    return np.stack(units)


def judge_probe(
    probe: Probe,
    rows: pd.DataFrame,
    *,
    features: NDArray[np.floating],
    target: str,
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Fit a probe on the training scans; metrics on the test scans and predictions for all.

    Args:
        probe: The probe, which is fitted.
        rows: subject, session, split and target of each scan.
        features: Features of each scan [N, F].
        target: Column to predict.
        bootstrap: How intervals are made.

    Raises:
        InputError: A split is empty, or has too few subjects.
    """
    train, test = ((rows["split"] == name).to_numpy() for name in (FITTED_ON, JUDGED_ON))
    for name, part in ((FITTED_ON, train), (JUDGED_ON, test)):
        if not part.any():
            raise InputError(f"A probe needs scans in split {name}, got none with a known {target}.")
    truth = rows[target].to_numpy()
    subjects = rows["subject"].to_numpy()
    probe.fit(features[train], truth[train], groups=subjects[train])
    chances = None
    if isinstance(probe, RidgeProbe):
        predicted = probe.predict(features)
    else:  # a head of diffusion takes long to ask
        chances = pd.DataFrame(probe.predict_proba(features), columns=probe.classes_)
        predicted = probe.classes_[chances.to_numpy().argmax(axis=1)]
    predictions = predictions_table(rows, target=target, predicted=predicted, chances=chances)
    positive = getattr(probe, "positive_label_", None)
    metrics = held_out_metrics(
        predictions, target=target, chances=chances, positive=positive, bootstrap=bootstrap
    )
    if not isinstance(probe, LinearProbe | RidgeProbe):
        predictions = predictions.join(probe.uncertainty(features).add_prefix("u_"))
    head = {"head": type(probe).__name__, "regularisation": getattr(probe, "regularisation_", None)}
    return {**metrics, **head}, predictions
