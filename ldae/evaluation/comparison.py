# SPDX-License-Identifier: Apache-2.0
"""What a code is worth: its probes beside the same probes on voxels, and beside what the anatomy allows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ldae.evaluation.baselines import oracle_auc, voxel_pca_features
from ldae.evaluation.material import Material, ScanSet, open_scans
from ldae.evaluation.predictions import METRICS, PREDICTIONS, read_metrics
from ldae.evaluation.probes import fit_probe, is_fitted, judge_probe, make_probe, select_rows
from ldae.evaluation.record import Findings, evaluate_once
from ldae.evaluation.supervised import compare_networks, judged_networks
from ldae.pipeline.embeddings import code_columns, read_embeddings

NAME = "comparison"
TRUTH = "ventricle_ml"
DIAGNOSIS, AGE = "diagnosis", "age"
# What is told of each target's metrics, and its name in the summary after "probe_" or "baseline_".
TOLD = {DIAGNOSIS: "auc", AGE: "mae", TRUTH: "r2"}
NAMES = {DIAGNOSIS: "auc", AGE: "age_mae", TRUTH: "ventricle_r2"}
FEATURES = {"probe": "semantic code", "baseline": "principal components of the voxels"}
NETWORK = "network_"


def evaluate_comparison(
    pipeline: str | Path,
    cohort: str | Path,
    *,
    out: str | Path,
    embeddings: str | Path | None = None,
    heads: str | Path | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: bool = False,
    run_dir: str | Path | None = None,
) -> Path:
    """Probes of the code for diagnosis (AD against CN), age and known ventricle volume, and their baselines.

    A baseline is the same probe on the same scans, on the voxels' principal components, as many as the code
    has numbers (fewer where there are fewer training scans). The oracle knows the true volume and the age.
    Networks that `fit` trained on the scans themselves, baselines/ of the run, stand beside them.
    All are fitted on the training scans and judged on the test scans.

    Args:
        pipeline: Folder of the pipeline.
        cohort: The cohort's table.
        out: Folder of the results, such as evaluation/comparison of the run.
        embeddings: Table of codes; None takes embeddings.parquet of the run.
        heads: Folder of head folders; None takes heads/ of the run. A probe that is not there, or was fitted
            otherwise, is fitted in `out`.
        seed: Seed of folds and of the decomposition.
        device: "auto" (a GPU where there is one), "cpu", "cuda:1" and so on.
        progress: Show a bar.
        run_dir: Folder of the run, for its cache of volumes; None takes the one that holds the pipeline.

    Returns:
        The folder, with table.csv, scans.csv and result.json.

    Raises:
        FileNotFoundError: The table of codes is missing.
        InputError: It lacks scans of a class or split.
        CheckpointError: A network was trained on another split.
    """
    material = Material.of(pipeline, cohort, out=out, run_dir=run_dir, device=device, progress=progress)
    embeddings = Path(embeddings or material.run_dir / "embeddings.parquet")
    heads = Path(heads or material.run_dir / "heads")

    def compute() -> Findings:
        frame = read_embeddings(embeddings)
        targets = [name for name in TOLD if name in frame.columns]
        found = {}
        for target in targets:
            folder = _head_folder(
                [heads / target, material.out / "heads" / target],
                embeddings=embeddings,
                target=target,
                seed=seed,
            )
            fit_probe(embeddings, target=target, out=folder, seed=seed)
            found["probe", target] = read_metrics(folder)
        components = min(len(code_columns(frame)), int((frame["split"] == "train").sum()) - 1)
        found |= _baselines(open_scans(material), targets=targets, components=components, seed=seed)
        networks, notes = compare_networks(material.run_dir, frame, targets=targets)
        found |= {(f"{NETWORK}{name}", target): metrics for (name, target), metrics in networks.items()}
        return _findings(found, frame, components=components, notes=notes)

    settings = {"embeddings": str(embeddings), "heads": str(heads), "seed": seed}
    inputs = [embeddings, *(heads / target / METRICS for target in TOLD)]
    for folder in judged_networks(material.run_dir):
        inputs += [folder / METRICS, folder / PREDICTIONS]
    return evaluate_once(material, name=NAME, settings=settings, compute=compute, inputs=inputs)


def _head_folder(folders: Sequence[Path], *, embeddings: Path, target: str, seed: int) -> Path:
    """The first folder that holds this very probe, else the last."""
    same = [out for out in folders if is_fitted(out, embeddings=embeddings, target=target, seed=seed)]
    return same[0] if same else folders[-1]


def _baselines(
    scans: ScanSet, *, targets: list[str], components: int, seed: int
) -> dict[tuple[str, str], dict[str, Any]]:
    frame = scans.frame[scans.frame["split"].isin(["train", "test"])].reset_index(drop=True)
    features = _voxel_features(scans, frame, components=components, seed=seed)
    found = {}
    for target in targets:
        rows = select_rows(frame.assign(place=range(len(frame))), target=target)
        probe = make_probe(rows[target], seed=seed)
        found["baseline", target] = judge_probe(
            probe, rows, features=features[rows["place"].to_numpy()], target=target
        )[0]
    return found


def _voxel_features(
    scans: ScanSet, frame: pd.DataFrame, *, components: int, seed: int
) -> NDArray[np.float32]:
    """Principal components [N, F] of the scans of train and test, learned from train."""
    train = (frame["split"] == "train").to_numpy()
    learned, others = voxel_pca_features(
        scans.maps(frame[train]), scans.maps(frame[~train]), n_features=components, seed=seed
    )
    features = np.empty((len(frame), components), dtype=np.float32)
    features[train], features[~train] = learned, others
    return features


def _findings(
    found: dict[tuple[str, str], dict[str, Any]],
    frame: pd.DataFrame,
    *,
    components: int,
    notes: list[str],
) -> Findings:
    values: dict[str, Any] = {}
    for (features, target), metrics in found.items():
        key, metric = f"{features}_{NAMES[target]}", TOLD[target]
        values |= {key: metrics[metric], f"{key}_ci": metrics[f"{metric}_ci"]}
    if TRUTH in frame.columns:
        values["ventricle_r2"] = values.pop("probe_ventricle_r2")
        values["ventricle_r2_ci"] = values.pop("probe_ventricle_r2_ci")
        values["oracle_auc"] = oracle_auc(frame)
    table = pd.DataFrame(
        [
            {"features": _words(features), "target": target, "metric": metric, "value": metrics[metric]}
            | {"low": metrics[f"{metric}_ci"][0], "high": metrics[f"{metric}_ci"][1]}
            for (features, target), metrics in found.items()
            for metric in _metrics(metrics)
        ]
    )
    test = frame[frame["split"] == "test"]
    scans = test[[name for name in ("subject", "session", DIAGNOSIS, AGE, TRUTH) if name in test.columns]]
    counts = {
        "scans": len(test),
        "subjects": int(test["subject"].nunique()),
        "code_numbers": len(code_columns(frame)),
        "voxel_components": components,
    }
    return Findings(values, table, scans, counts, notes)


def _words(features: str) -> str:
    return FEATURES.get(features, f"network {features.removeprefix(NETWORK)}")


def _metrics(metrics: dict[str, Any]) -> list[str]:
    return [name for name in metrics if f"{name}_ci" in metrics]
