# SPDX-License-Identifier: Apache-2.0
"""Whether a head knows when it does not know: calibration, conformal sets, and what referring scans gains."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ldae.data.artefact import read_json
from ldae.errors import CheckpointError, InputError
from ldae.evaluation.bootstrap import mean_with_interval
from ldae.evaluation.material import Material
from ldae.evaluation.metrics import classification_metrics
from ldae.evaluation.predictions import FITTED_ON, PREDICTIONS, read_predictions
from ldae.evaluation.record import Findings, evaluate_once
from ldae.evaluation.selective import risk_coverage, selective_metrics
from ldae.heads.calibration import METHODS, calibrate
from ldae.heads.conformal import SCORES, ConformalIntervals, ConformalSets, Score, least_scans
from ldae.pipeline.embeddings import read_embeddings
from ldae.pipeline.folder import read_index
from ldae.pipeline.head_folder import DOCUMENT_NAME

NAME = "calibration"
CALIBRATED_ON = "cal"
LEVELS = (0.9, 0.95)
CURVE, RELIABILITY = "risk_coverage.csv", "reliability.csv"
CALIBRATION, CONFORMAL, SELECTIVE = "calibration", "conformal", "selective prediction"
CALIBRATION_METRICS = ("nll", "brier", "ece", "accuracy")
UNCHANGED = "as fitted"
CLASS = "class"
BINS = 10

Row = dict[str, Any]


def evaluate_calibration(
    pipeline: str | Path,
    cohort: str | Path,
    *,
    out: str | Path,
    head: str | Path,
    by: str | None = None,
    split: str = "test",
    seed: int = 0,
    device: str = "auto",
    progress: bool = False,
    run_dir: str | Path | None = None,
) -> Path:
    """Calibrate a fitted head on the `cal` split and judge it on another, from its predictions.csv alone.

    - Its probabilities as they are, and after temperature, sigmoid and isotonic calibration.
    - Conformal sets at 90 % and 95 %: LAC, LAC by class, APS and RAPS past two classes, and LAC within each
      value of `by`; intervals for a head that predicts a number. Calibrated and judged on one scan a subject,
      the first: visits of one subject are not exchangeable with those of others.
    - Selective prediction: AURC and AUGRC of every doubt that the head tells, and the risk-coverage curves.

    Args:
        pipeline: Folder of the pipeline that made the head's codes.
        cohort: The cohort's table.
        out: Folder of the results, such as evaluation/calibration of the run.
        head: The head folder that `ldae probe` wrote.
        by: Column of the embeddings, such as site, within whose values sets shall hold.
        split: Scans to judge it on.
        seed: Seed of what is drawn.
        device: As for every evaluation; nothing is computed on it.
        progress: As for every evaluation.
        run_dir: Folder of the run; None takes the one that holds the pipeline.

    Returns:
        The folder, with table.csv, scans.csv, reliability.csv, risk_coverage.csv and result.json.

    Raises:
        FileNotFoundError: There is no such head.
        CheckpointError: The head was fitted on another pipeline's codes.
        InputError: Too few calibration scans for a level, no such column, mapie is not installed, or `split`
            holds scans that the head was fitted or is calibrated on.
    """
    material = Material.of(
        pipeline, cohort, out=out, run_dir=run_dir, split=split, device=device, progress=progress
    )
    head = Path(head)
    _check_split(split)
    rows = _predictions(head, by=by)
    _check_pipeline(head, material.pipeline)
    classes = [name.removeprefix("p_") for name in rows.columns if name.startswith("p_")]

    def compute() -> Findings:
        known, new = (_of_split(rows, name, head=head) for name in (CALIBRATED_ON, split))
        if classes:
            return _judge_classes(known, new, classes=classes, by=by, seed=seed)
        return _judge_numbers(known, new, by=by)

    return evaluate_once(
        material,
        name=NAME,
        settings={"head": str(head), "by": by, "seed": seed},
        compute=compute,
        inputs=[head],
        more=[CURVE, RELIABILITY] if classes else [],
    )


def _predictions(head: Path, *, by: str | None) -> pd.DataFrame:
    """What the head said of every scan, with the column `by` of the embeddings that it was fitted on."""
    rows = read_predictions(head)
    if by is None:
        return rows
    provenance = read_json(head / DOCUMENT_NAME)["provenance"]
    embeddings = read_embeddings(head / provenance["embeddings"])
    if by not in embeddings.columns:
        raise InputError(f"by must be a column of {embeddings.attrs['path']}, got {by!r}.")
    scan = ["subject", "session"]
    return rows.merge(embeddings[[*scan, *({by} - set(rows.columns))]], on=scan, validate="1:1")


def _check_split(split: str) -> None:
    seen = {CALIBRATED_ON: "calibration is learned from", FITTED_ON: "the head was fitted on"}
    if split in seen:
        raise InputError(f"split must be one of new scans, got {split}, which {seen[split]}. Take test.")


def _check_pipeline(head: Path, pipeline: Path) -> None:
    """A head names its pipeline; a network that was trained on scans has none."""
    if not (head / DOCUMENT_NAME).is_file():
        return
    named, sha256 = str(read_json(head / DOCUMENT_NAME)["pipeline"]), read_index(pipeline).sha256
    if named != sha256:
        raise CheckpointError(
            f"The head {head} was fitted on embeddings of pipeline {named[:12]}, but {pipeline} is pipeline "
            f"{sha256[:12]}. Fit it on this pipeline's: ldae embed, then ldae probe"
        )


def _of_split(rows: pd.DataFrame, split: str, *, head: Path) -> pd.DataFrame:
    part = rows[rows["split"] == split].sort_values(["subject", "session"]).reset_index(drop=True)
    if part.empty:
        raise InputError(
            f"Split {split!r} must hold scans with a known target, got none in {head / PREDICTIONS}. "
            "Draw a split that has them: ldae split"
        )
    return part


def _judge_classes(
    known: pd.DataFrame, new: pd.DataFrame, *, classes: list[str], by: str | None, seed: int
) -> Findings:
    maps = _mapped(known, new, classes=classes)
    wrong = new["y_pred"] != new["y_true"]
    doubts = {"1 - probability": 1 - maps[UNCHANGED].max(axis=1)}
    doubts |= {name.removeprefix("u_"): new[name].to_numpy() for name in new if name.startswith("u_")}
    rows: list[Row] = []
    for method, chances in maps.items():
        metrics = classification_metrics(new["y_true"], chances, classes=classes, subjects=new["subject"])
        rows += [_row(CALIBRATION, method, name, metrics) for name in CALIBRATION_METRICS]
    rows += _set_rows(_first_visits(known), _first_visits(new), classes=classes, by=by, seed=seed)
    for name, doubt in doubts.items():
        metrics = selective_metrics(wrong, doubt, subjects=new["subject"])
        rows += [_row(SELECTIVE, name, metric, metrics) for metric in ("aurc", "augrc")]
    curves = [risk_coverage(wrong, doubt).assign(doubt=name) for name, doubt in doubts.items()]
    bins = [_bins(new["y_true"], said, classes=classes).assign(method=name) for name, said in maps.items()]
    scans = new[["subject", "session", "y_true", "y_pred", *(f"p_{name}" for name in classes)]]
    more = {CURVE: pd.concat(curves), RELIABILITY: pd.concat(bins)}
    notes = [] if len(classes) == 2 else _left_out(known["subject"].nunique())
    return Findings(_values(rows), pd.DataFrame(rows), scans, _counts(known, new), notes, more)


def _judge_numbers(known: pd.DataFrame, new: pd.DataFrame, *, by: str | None) -> Findings:
    first, judged = _first_visits(known), _first_visits(new)
    scans = judged[["subject", "session", "y_true", "y_pred"]].copy()
    rows: list[Row] = []
    for column, level in product([None, by] if by else [None], LEVELS):
        model = ConformalIntervals(level=level)
        model.fit(first["y_pred"], first["y_true"], groups=_groups(first, column))
        low, high = model.predict(judged["y_pred"], groups=_groups(judged, column)).T
        inside = (low <= judged["y_true"]) & (judged["y_true"] <= high)
        method = _named("absolute error", column)
        rows += _mean_rows(
            method, {"coverage": inside, "width": high - low}, subjects=judged["subject"], level=level
        )
        if column is None:
            scans[f"low_{100 * level:.0f}"], scans[f"high_{100 * level:.0f}"] = low, high
    return Findings(_values(rows), pd.DataFrame(rows), scans, _counts(known, new))


def _mapped(known: pd.DataFrame, new: pd.DataFrame, *, classes: list[str]) -> dict[str, NDArray[np.float64]]:
    """Probabilities of the new scans as they are, and after each calibration."""
    columns = [f"p_{name}" for name in classes]
    maps = {UNCHANGED: new[columns].to_numpy()}
    for method in METHODS:
        maps[method] = calibrate(
            known[columns], known["y_true"], new=maps[UNCHANGED], classes=classes, method=method
        )
    return maps


def _set_rows(
    known: pd.DataFrame, new: pd.DataFrame, *, classes: list[str], by: str | None, seed: int
) -> Iterator[Row]:
    columns = [f"p_{name}" for name in classes]
    own = new["y_true"].to_numpy()[:, None] == np.asarray(classes)
    kinds: list[tuple[Score, str | None]] = [("lac", None), ("lac", CLASS)]
    kinds += [(score, None) for score in SCORES if score != "lac" and len(classes) > 2]
    kinds += [("lac", by)] if by else []
    for (score, within), level in product(kinds, LEVELS):
        if score == "raps" and len(known) < least_scans(level, score=score):
            continue  # said in the notes
        model = ConformalSets(score=score, level=level, by_class=within == CLASS, random_state=seed)
        column = None if within == CLASS else within
        model.fit(known[columns], known["y_true"], classes=classes, groups=_groups(known, column))
        held = model.predict(new[columns], groups=_groups(new, column))
        sizes = held.sum(axis=1)
        told = {"coverage": (held & own).any(axis=1), "set_size": sizes, "one_class": sizes == 1}
        method = _named(score, within)
        yield from _mean_rows(method, told, subjects=new["subject"], level=level)
        for place, name in enumerate(classes):
            of = own[:, place]
            told = {f"coverage_{name}": held[of, place]} if of.any() else {}
            yield from _mean_rows(method, told, subjects=new["subject"][of], level=level)


def _left_out(subjects: int) -> list[str]:
    return [
        f"raps at {100 * level:.0f} % is left out: it needs {least_scans(level, score='raps')} calibration "
        f"subjects, there are {subjects}."
        for level in LEVELS
        if subjects < least_scans(level, score="raps")
    ]


def _named(method: str, within: str | None) -> str:
    return method if within is None else f"{method} by {within}"


def _groups(rows: pd.DataFrame, column: str | None) -> NDArray[Any] | None:
    return None if column is None else rows[column].astype(str).to_numpy()


def _first_visits(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.drop_duplicates("subject").reset_index(drop=True)


def _bins(truth: pd.Series[Any], said: NDArray[np.float64], *, classes: list[str]) -> pd.DataFrame:
    """Reliability diagram: the highest probability against how often it is right, in bins of equal width."""
    confidence = said.max(axis=1)
    right = np.asarray(classes)[said.argmax(axis=1)] == truth.to_numpy()
    place = np.clip((confidence * BINS).astype(int), 0, BINS - 1)
    table = pd.DataFrame({"bin": place, "confidence": confidence, "accuracy": right, "scans": 1})
    found = table.groupby("bin").agg({"confidence": "mean", "accuracy": "mean", "scans": "sum"})
    return found.reset_index(drop=True)


def _row(
    part: str, method: str, metric: str, metrics: Mapping[str, Any], *, level: float | None = None
) -> Row:
    low, high = metrics[f"{metric}_ci"]
    return {
        "part": part,
        "method": method,
        "level": level,
        "metric": metric,
        "value": metrics[metric],
        "low": low,
        "high": high,
    }


def _mean_rows(
    method: str, told: Mapping[str, ArrayLike], *, subjects: pd.Series[Any], level: float
) -> Iterator[Row]:
    """Mean of each column; one subject alone has no interval."""
    for metric, column in told.items():
        values = np.asarray(column, dtype=np.float64)
        alone = subjects.nunique() < 2
        interval = [None, None] if alone else mean_with_interval(values, subjects)[1]
        found = {metric: float(values.mean()), f"{metric}_ci": interval}
        yield _row(CONFORMAL, method, metric, found, level=level)


def _values(rows: Sequence[Row]) -> dict[str, Any]:
    """The rows by name, such as nll_temperature or coverage_lac_by_class_90."""
    values: dict[str, Any] = {}
    for row in rows:
        level = "" if row["level"] is None else f"_{100 * row['level']:.0f}"
        method = re.sub(r"[^a-z0-9]+", "_", row["method"].lower()).strip("_")
        key = f"{row['metric']}_{method}{level}"
        values |= {key: row["value"], f"{key}_ci": [row["low"], row["high"]]}
    return values


def _counts(known: pd.DataFrame, new: pd.DataFrame) -> dict[str, int]:
    return {
        "scans": len(new),
        "subjects": int(new["subject"].nunique()),
        "calibration_scans": len(known),
        "calibration_subjects": int(known["subject"].nunique()),
    }
