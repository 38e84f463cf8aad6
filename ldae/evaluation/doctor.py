# SPDX-License-Identifier: Apache-2.0
"""Whether the semantic code does anything: measures, checks, and one sentence that says what to change."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ldae import __version__
from ldae.data.artefact import atomic_path, write_json
from ldae.errors import InputError
from ldae.evaluation.code import measure_gaps
from ldae.evaluation.codes import encode_scans
from ldae.evaluation.explained import FOLDS, share_explained
from ldae.evaluation.material import Material, ScanSet, first_visits, open_scans
from ldae.evaluation.record import TABLE, Findings
from ldae.evaluation.slice_importance import measure_slices
from ldae.evaluation.verdict import Check, judge, read_settings, say_verdict
from ldae.pipeline.statistics import TrainingStatistics

logger = logging.getLogger(__name__)

DOCUMENT = "doctor.json"
LEVELS, SLICES = "levels.csv", "slices.csv"
NOISE_LEVELS = 20
MOST_SCANS = 4096
"""Scans on which codes are regressed, at most: time and memory grow with the square of fewer."""


def examine_pipeline(
    pipeline: str | Path,
    cohort: str | Path,
    *,
    out: str | Path,
    split: str = "test",
    limit: int = 64,
    seed: int = 0,
    device: str = "auto",
    progress: bool = False,
    run_dir: str | Path | None = None,
) -> Path:
    """Examine the semantic code of a pipeline.

    The denoising error with the right code, another subject's and none; the effective rank of the training
    codes; what each slice has to say; and how much of the stochastic code the semantic one still tells.

    Args:
        pipeline: Folder of the pipeline.
        cohort: The cohort's table.
        out: Folder of the results, such as evaluation/doctor of the run.
        split: Scans to examine it on.
        limit: First visits of so many subjects at most, for errors and slices; the stochastic codes are those
            of every scan of the split, of more than 4,096 evenly spaced ones.
        seed: Seed of the noise, of who gets whose code, of the subjects and the folds.
        device: "auto" (a GPU where there is one), "cpu", "cuda:1" and so on.
        progress: Show bars.
        run_dir: Folder of the run, for its cache of volumes; None takes the one that holds the pipeline.

    Returns:
        The folder, with doctor.json, table.csv (the checks), levels.csv and slices.csv.

    Raises:
        FileNotFoundError: Pipeline or cohort is missing; the message says what makes it.
        CheckpointError: The pipeline was trained on another split.
        InputError: The split has too few subjects, or the cohort has faults.
    """
    material = Material.of(
        pipeline, cohort, out=out, run_dir=run_dir, split=split, device=device, progress=progress
    )
    started = time.perf_counter()
    scans = open_scans(material)
    _check_subjects(scans, limit=limit, split=split)
    gaps = measure_gaps(scans, material, steps=NOISE_LEVELS, seed=seed, limit=limit)
    slices = measure_slices(scans, first_visits(scans.rows, limit=limit, seed=seed))
    values = {
        **gaps.values,
        **code_values(scans.pipeline.statistics),
        **_slice_values(slices, plane=scans.pipeline.networks.encoder.config.plane),
        **_shares(scans, material, seed=seed),
    }
    settings = read_settings(scans.pipeline.networks)
    checks = judge(values, settings=settings)
    document = {
        "verdict": say_verdict(checks),
        "healthy": all(check.state != "bad" for check in checks),
        "ldae_version": __version__,
        "pipeline": str(material.pipeline),
        "cohort": str(material.cohort),
        "split": split,
        "settings": {"limit": limit, "levels": NOISE_LEVELS, "seed": seed, **settings},
        **_counts(scans, gaps),
        "values": values,
        "checks": [asdict(check) for check in checks],
        "seconds": round(time.perf_counter() - started, 2),
    }
    _write(material.out, document, tables={TABLE: _table(checks), LEVELS: gaps.table, SLICES: slices})
    return material.out


def effective_rank(covariance: NDArray[np.float64]) -> float:
    """How many directions a covariance [D, D] fills: exp of the entropy of its eigenvalues' shares, 0..D.

    Roy and Vetterli, The effective rank (EUSIPCO 2007). Zero where nothing varies.
    """
    spectrum = np.linalg.eigvalsh(covariance).clip(min=0)
    shares = spectrum[spectrum > 0] / max(spectrum.sum(), np.finfo(float).tiny)
    return float(np.exp(-np.sum(shares * np.log(shares)))) if len(shares) else 0.0


def code_values(statistics: TrainingStatistics) -> dict[str, float | int]:
    """Size, variation (variance as a share of the mean square) and effective rank of the training codes."""
    variance = float(np.square(statistics.std).sum())
    square = variance + float(np.square(statistics.mean).sum())
    return {
        "code_size": len(statistics.mean),
        "code_variation": variance / square if square > 0 else 0.0,
        "effective_rank": effective_rank(statistics.covariance()),
    }


def _check_subjects(scans: ScanSet, *, limit: int, split: str) -> None:
    subjects = scans.rows["subject"].nunique()
    if min(subjects, limit) < FOLDS:
        raise InputError(
            f"split {split!r} and limit must leave at least {FOLDS} subjects, got {min(subjects, limit)}."
        )


def _slice_values(slices: pd.DataFrame, *, plane: str) -> dict[str, Any]:
    """Which slice weighs most, and its part of the sum over slices."""
    weights = slices["prediction" if "prediction" in slices else "code"]
    total = float(weights.sum())
    largest = int(weights.to_numpy().argmax())
    return {
        "plane": plane,
        "largest_slice": largest,
        "largest_slice_share": float(weights[largest]) / total if total > 0 else 0.0,
    }


def _shares(scans: ScanSet, material: Material, *, seed: int) -> dict[str, Any]:
    """What the semantic code tells of the stochastic one and, to know what it could tell, of the latent."""
    places = range(0, len(scans.rows), math.ceil(len(scans.rows) / MOST_SCANS))
    encoded = encode_scans(scans, material)
    subjects = list(scans.rows["subject"].iloc[list(places)])
    codes = encoded.compressed.semantic[list(places)].double().numpy()
    stored = {"noise": (encoded.walks, "stochastic"), "latent": (encoded.compressed.stored, "latents")}
    found: dict[str, Any] = {}
    for name, (tensors, key) in stored.items():
        targets = tensors.take(places, name=key).flatten(1).numpy()
        share, interval = share_explained(codes, targets, subjects=subjects, seed=seed)
        found |= {f"{name}_explained": share, f"{name}_explained_ci": interval}
    return found


def _counts(scans: ScanSet, gaps: Findings) -> dict[str, int]:
    return {
        "scans": len(scans.rows),
        "subjects": int(scans.rows["subject"].nunique()),
        "scans_for_gaps": gaps.counts["scans"],
        "training_scans": scans.pipeline.statistics.scans,
    }


def _table(checks: list[Check]) -> pd.DataFrame:
    return pd.DataFrame([asdict(check) for check in checks])


def _write(folder: Path, document: dict[str, Any], *, tables: dict[str, pd.DataFrame]) -> None:
    for name, table in tables.items():
        with atomic_path(folder / name) as temporary:
            table.to_csv(temporary, index=False)
    write_json(folder / DOCUMENT, document)
    logger.info("%s: %.0f s", folder, document["seconds"])
