# SPDX-License-Identifier: Apache-2.0
"""Pictures of the model: what its code holds, whether it is used, which slices count, how it was trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ldae.evaluation.material import first_visits
from ldae.evaluation.predictions import read_metrics, read_predictions
from ldae.evaluation.record import TABLE
from ldae.report.cuts import Volume, head_box
from ldae.report.elements import Picture, make_picture
from ldae.report.figures import attention_figure, line_figure, probe_figure, training_figure
from ldae.report.run import Run

STAGES = {
    "autoencoder": ("Stage 1: autoencoder", {"train/l1": "L1", "val/l1": "L1, held out"}),
    "denoiser": ("Stage 2: denoiser", {"train/loss": "loss", "val/loss": "loss, held out"}),
    "representation": (
        "Stage 3: code",
        {
            "train/loss": "loss",
            "val/right": "held out, own code",
            "val/shuffled": "held out, another's",
            "val/none": "held out, no code",
        },
    ),
}
FIT_COMMAND = "ldae fit --config aekl.yaml, then ldae_pretrain.yaml, then ldae_repr_learn.yaml"
SMOOTHED = 25  # training steps in a point, where there are many
ATTENTION_SCANS = 64


def code_picture(run: Run) -> Picture:
    """What the code holds, by probes on held-out subjects."""
    heads = (run.run_dir / "heads", run.run_dir / "evaluation" / "comparison" / "heads")
    diagnosis, volume = (
        next(folder / name for folder in heads if (folder / name / "metrics.json").is_file())
        for name in ("diagnosis", "ventricle_ml")
    )
    classes, numbers = (
        rows[rows["split"] == "test"] for rows in (read_predictions(folder) for folder in (diagnosis, volume))
    )
    figure = probe_figure(
        classes["y_true"] == "AD",
        classes["p_AD"],
        auc=read_metrics(diagnosis)["auc"],
        known=numbers["y_true"],
        predicted=numbers["y_pred"],
        r2=read_metrics(volume)["r2"],
    )
    return make_picture(
        figure,
        alt="ROC curve of AD against CN, and predicted against known ventricle volume",
        caption=f"{len(classes)} test scans of AD or CN (left), {len(numbers)} test scans (right).",
        command=run.evaluation("comparison"),
    )


def gap_picture(run: Run) -> Picture:
    """Whether the code is used, by noise level."""
    table = run.table("code", TABLE)
    names = {"right": "own code", "shuffled": "another subject's code", "none": "no code"}
    lines = {label: (table["level"], table[name]) for name, label in names.items()}
    return make_picture(
        line_figure(lines, x="noise level t", y="error of v, per latent element"),
        alt="Denoising error by noise level with the own code, another subject's code, and none",
        caption="The gap between own and another's code is what the decoder takes from the code.",
        command=run.evaluation("code"),
    )


def attention_picture(run: Run) -> Picture:
    """Which slices count."""
    networks = run.scans.pipeline.networks
    rows = first_visits(run.scans.rows, limit=ATTENTION_SCANS)
    weights, mean = [], np.zeros(run.scans.pipeline.spec.size, dtype=np.float32)
    with torch.inference_mode():
        for start in range(0, len(rows), networks.volume_batch):
            volumes = run.scans.volumes(rows.iloc[start : start + networks.volume_batch])
            weights.append(networks.encoder.describe(volumes.to(networks.device)).attention.cpu().numpy())
            mean += volumes[:, 0].numpy().sum(axis=0) / len(rows)
    plane = networks.encoder.config.plane
    return make_picture(
        attention_figure(np.concatenate(weights), _beside_slices(mean, plane), plane=plane),
        alt=f"Weight of each {plane} slice, mean and spread over test scans, beside their mean scan",
        caption=f"Mean of {len(rows)} test scans, and the weights: mean, 10th to 90th percentile.",
        command=run.command("report"),
    )


def _beside_slices(volume: Volume, plane: str) -> Volume:
    """A cut through the middle of the head whose rows are the slices of a plane."""
    (x0, x1), (y0, y1), (z0, z1) = head_box(volume)
    x, y, z = (x0 + x1) // 2, (y0 + y1) // 2, (z0 + z1) // 2
    cuts = {"axial": volume[x].T, "coronal": volume[:, :, z].T, "sagittal": volume[:, y]}
    return np.asarray(cuts[plane])


def training_picture(run: Run) -> Picture:
    """Losses of the three stages."""
    stages = {}
    for stage, (title, columns) in STAGES.items():
        lines = _training_lines(run.run_dir / "logs" / stage, columns)
        if lines:
            stages[title] = lines
    return make_picture(
        training_figure(stages),
        alt="Training and validation losses of the three stages over optimiser steps",
        caption="Held-out losses are those of the averaged weights on validation subjects.",
        command=run.command("demo") if (run.run_dir / "stamps").is_dir() else FIT_COMMAND,
    )


def _training_lines(folder: Path, columns: dict[str, str]) -> dict[str, tuple[pd.Series, pd.Series]]:
    """Logged values of a stage by label, of all its parts where training was interrupted."""
    logs = sorted(folder.glob("*/metrics.csv"), key=lambda path: path.stat().st_mtime_ns)
    if not logs:
        return {}
    table = pd.concat([pd.read_csv(path) for path in logs], ignore_index=True)
    lines = {}
    for column, label in columns.items():
        if column not in table.columns:
            continue
        values = table[["step", column]].dropna().drop_duplicates("step", keep="last").sort_values("step")
        if len(values) > 8 * SMOOTHED:
            values = values.groupby(np.arange(len(values)) // SMOOTHED).mean()
        lines[label] = (values["step"], values[column])
    return lines
