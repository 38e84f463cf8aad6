# SPDX-License-Identifier: Apache-2.0
"""Networks trained end to end, judged on held-out subjects as heads on codes are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from ldae.data.split import split_hash
from ldae.data.target import labelled_rows
from ldae.errors import CheckpointError
from ldae.evaluation.bootstrap import DEFAULT_BOOTSTRAP, Bootstrap
from ldae.evaluation.predictions import (
    FITTED_ON,
    JUDGED_ON,
    METRICS,
    POSITIVE,
    held_out_metrics,
    predictions_table,
    read_metrics,
    read_predictions,
    write_predictions,
)
from ldae.evaluation.probes import select_rows
from ldae.nets.blocks import to_channels_last
from ldae.pipeline.networks import choose_device, volume_batch
from ldae.pipeline.run_cohort import RunCohort, open_run_cohort, read_volumes
from ldae.stages.components import Supervised, load_supervised

BASELINES = "baselines"


def judge_supervised(
    folder: str | Path,
    *,
    run_dir: str | Path,
    cohort: str | Path | None = None,
    device: str = "auto",
    progress: bool = False,
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
) -> list[Path]:
    """Predict every scan with a known target, and judge the test scans.

    Args:
        folder: The network's component folder.
        run_dir: Folder of the run, for its cache of volumes.
        cohort: Cohort CSV or BIDS folder; None takes cohort/cohort.csv of the run.
        device: "auto" (a GPU where there is one), "cpu", "cuda:1" and so on.
        progress: Show a bar.
        bootstrap: How intervals are made.

    Returns:
        What was written into the folder: predictions.csv and metrics.json, as in a head folder.

    Raises:
        FileNotFoundError: The folder is no component.
        InputError: The cohort has faults, or too few test subjects.
        CheckpointError: The network was trained on another split.
    """
    folder = Path(folder)
    supervised, component = load_supervised(folder)
    run = open_run_cohort(Path(run_dir), cohort=cohort, trained=folder, progress=progress)
    target, classes = supervised.target, supervised.classes
    rows = labelled_rows(run.frame, target=target, classes=classes, splits=(FITTED_ON, JUDGED_ON))
    rows = rows.reset_index(drop=True)
    found = _predict(supervised, rows, run=run, device=choose_device(device), progress=progress)
    chances = pd.DataFrame(found, columns=classes) if classes else None
    predicted = np.asarray(classes)[found.argmax(1)] if classes else found
    predictions = predictions_table(rows, target=target, predicted=predicted, chances=chances)
    metrics = held_out_metrics(
        predictions,
        target=target,
        chances=chances,
        positive=POSITIVE if POSITIVE in classes else None,
        bootstrap=bootstrap,
    )
    weights = sum(tensor.numel() for tensor in supervised.network.parameters())
    more = {"network": supervised.name, "parameters": weights, "split": component.split, **component.extra}
    return write_predictions(folder, metrics={**metrics, **more}, predictions=predictions)


def _predict(
    supervised: Supervised, rows: pd.DataFrame, *, run: RunCohort, device: torch.device, progress: bool
) -> NDArray[np.float64]:
    """Probabilities [N, C] or numbers [N] of all rows."""
    supervised.network.to(device)
    if device.type == "cpu":
        to_channels_last(supervised.network)
    paths, found = list(rows["path"]), []
    step = volume_batch(run.cache.spec.size)
    with torch.inference_mode():
        for start in tqdm(range(0, len(paths), step), desc="predict", disable=not progress):
            volumes = read_volumes(run.cache, paths[start : start + step]).to(device)
            found.append(supervised.predict(volumes).double().cpu())
    return torch.cat(found).numpy()


def judged_networks(run_dir: Path) -> list[Path]:
    """Folders of the run's networks that were trained to their end, by name."""
    return sorted(path.parent for path in (run_dir / BASELINES).glob(f"*/{METRICS}"))


def compare_networks(
    run_dir: Path, frame: pd.DataFrame, *, targets: Sequence[str]
) -> tuple[dict[tuple[str, str], dict[str, Any]], list[str]]:
    """Metrics of the run's networks on the test scans that a probe of the same target is judged on.

    Args:
        run_dir: Folder of the run.
        frame: The scans that probes are fitted and judged on, as `ldae embed` lists them.
        targets: Columns of interest.

    Returns:
        Metrics by name and target, and a sentence on each network of these targets that is left out.

    Raises:
        CheckpointError: A network was trained on another split.
    """
    found: dict[tuple[str, str], dict[str, Any]] = {}
    notes: list[str] = []
    split = split_hash(frame)
    for folder in judged_networks(run_dir):
        metrics = read_metrics(folder)
        if metrics["target"] not in targets:
            continue
        if metrics["split"] != split:
            raise CheckpointError(
                f"{folder} was trained on split {metrics['split'][:12]}, but the embeddings have split "
                f"{split[:12]}. Train it again, or remove the folder."
            )
        rows = select_rows(frame, target=metrics["target"])
        if _judged_on(read_predictions(folder)) == _judged_on(rows):
            found[metrics["network"], metrics["target"]] = metrics
        else:
            notes.append(f"{folder} is left out: it was judged on other scans than the probe.")
    return found, notes


def _judged_on(rows: pd.DataFrame) -> set[tuple[str, str]]:
    test = rows[rows["split"] == JUDGED_ON]
    return set(zip(test["subject"].astype(str), test["session"].astype(str), strict=True))
