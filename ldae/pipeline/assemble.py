# SPDX-License-Identifier: Apache-2.0
"""From the stages of a run to one pipeline folder."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from ldae.data.artefact import (
    CONFIG_NAME,
    NETWORKS,
    atomic_folder,
    component_sha256,
    read_json,
    sha256_json,
    whole,
)
from ldae.errors import CheckpointError, InputError
from ldae.pipeline.folder import (
    INDEX_NAME,
    MADE_BY,
    PipelineIndex,
    check_component,
    component_folder,
    copy_component,
    intact_sha256,
    read_index,
    write_index,
)
from ldae.pipeline.loading import load_networks
from ldae.pipeline.networks import MOST_AT_ONCE, Networks
from ldae.pipeline.novelty import measure_scans
from ldae.pipeline.run_cohort import RunCohort, open_run_cohort, read_volumes
from ldae.pipeline.statistics import KIND, TrainingStatistics, measure_training, save_statistics
from ldae.stages.components import load_code_sampler

logger = logging.getLogger(__name__)

# Intensity and reconstruction error are measured on so many training scans at most, spread evenly.
MEASURED_SCANS = 500
SAMPLER = "code_sampler"


def assemble_pipeline(
    run_dir: str | Path,
    *,
    cohort: str | Path | None = None,
    out: str | Path | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    progress: bool = False,
) -> Path:
    """Put the three stages of a run and the statistics of its training scans into one folder.

    Nothing is done where the folder holds the same already.

    Args:
        run_dir: Folder of the run, with the three stages.
        cohort: Cohort CSV or BIDS folder; None takes cohort/cohort.csv of the run.
        out: The pipeline's folder; None takes `pipeline/` of the run.
        batch_size: Scans at a time; None takes a number that fits.
        device: "auto" (a GPU where there is one), "cpu", "cuda:1" and so on.
        progress: Show a bar.

    Returns:
        The pipeline's folder.

    Raises:
        FileNotFoundError: A stage or the cohort is missing; the message says what makes it.
        CheckpointError: The stages, or stages and cohort, do not belong together.
    """
    run_dir = Path(run_dir)
    out = Path(out) if out else run_dir / "pipeline"
    index = _index_of_stages(run_dir)
    sampler = _fitting_sampler(run_dir, index=index)
    run = open_run_cohort(run_dir, cohort=cohort, trained=run_dir / "representation", progress=progress)
    train = run.frame[run.frame["split"] == "train"]
    request = sha256_json([index.components, sorted(train["key"])])
    if _is_current(out, index=index, request=request):
        logger.info("%s is up to date", out)
        return out if sampler is None else add_code_sampler(run_dir, out)
    networks = load_networks(run_dir, index=index, device=device)
    statistics = _measure(networks, run, rows=train, batch_size=batch_size, progress=progress)
    with atomic_folder(out, last=INDEX_NAME) as new:
        for kind in NETWORKS:
            if intact_sha256(out / kind) != index.components[kind]:
                copy_component(run_dir / kind, new / kind)
        saved = save_statistics(
            new / KIND,
            statistics,
            spec=index.spec,
            split=index.split,
            parents=index.components,
            request=request,
        )
        write_index(new, replace(index, components={**index.components, KIND: saved}))
    logger.info("Pipeline %s is in %s", index.sha256[:12], out)
    return out if sampler is None else add_code_sampler(run_dir, out)


def add_code_sampler(run_dir: str | Path, pipeline: str | Path) -> Path:
    """Bring the code sampler of a run to its pipeline's folder; nothing is done where it lies there already.

    Returns:
        The pipeline's folder.

    Raises:
        FileNotFoundError: Either is missing; the message says what makes it.
        CheckpointError: The sampler was trained on the codes of another pipeline.
    """
    folder, pipeline = component_folder(run_dir, SAMPLER), Path(pipeline)
    index = read_index(pipeline)
    found = replace(index, components={**index.components, SAMPLER: component_sha256(folder)})
    _, component = load_code_sampler(folder)
    check_component(component, index=found, folder=Path(run_dir))
    copy_component(folder, pipeline / SAMPLER)
    if found != index:
        write_index(pipeline, found)
        logger.info("The code sampler is in %s", pipeline)
    return pipeline


def _fitting_sampler(run_dir: Path, *, index: PipelineIndex) -> Path | None:
    """The run's code sampler, unless there is none or it was trained on the codes of earlier networks."""
    folder = run_dir / SAMPLER
    if intact_sha256(folder) is None:
        return None
    parents = read_json(folder / CONFIG_NAME)["parents"]
    if all(parents.get(kind) == index.components[kind] for kind in NETWORKS):
        return folder
    logger.warning(
        "%s belongs to earlier networks and is left out. To have one, run: ldae embed, then %s",
        folder,
        MADE_BY[SAMPLER],
    )
    return None


def _index_of_stages(run_dir: Path) -> PipelineIndex:
    folders = {kind: component_folder(run_dir, kind) for kind in NETWORKS}
    first = read_json(folders["autoencoder"] / CONFIG_NAME)
    return PipelineIndex(
        components={kind: component_sha256(folder) for kind, folder in folders.items()},
        spec=first["spec"],
        split=first["split"],
    )


def _is_current(out: Path, *, index: PipelineIndex, request: str) -> bool:
    try:
        there = read_index(out)
        with whole(out / KIND / CONFIG_NAME):
            found = read_json(out / KIND / CONFIG_NAME)["extra"]["request"]
    except (FileNotFoundError, CheckpointError):
        return False
    same = request == found and there.sha256 == index.sha256
    return same and all(intact_sha256(out / kind) == sha256 for kind, sha256 in there.components.items())


def _measure(
    networks: Networks, run: RunCohort, *, rows: pd.DataFrame, batch_size: int | None, progress: bool
) -> TrainingStatistics:
    paths = list(rows["path"])
    if len(paths) < 2:
        raise InputError(f"The training split must hold at least 2 scans, got {len(paths)}.")
    codes = [
        networks.describe(read_volumes(run.cache, batch), batch_size=batch_size)
        for batch in _batches(paths, name="training codes", progress=progress)
    ]
    places = np.linspace(0, len(paths) - 1, min(len(paths), MEASURED_SCANS)).round().astype(int)
    parts = [
        measure_scans(networks, read_volumes(run.cache, batch), batch_size=batch_size)
        for batch in _batches([paths[place] for place in places], name="training scans", progress=progress)
    ]
    return measure_training(
        torch.cat(codes).double().numpy(),
        subjects=list(rows["subject"]),
        measures={name: np.concatenate([part[name] for part in parts]) for name in parts[0]},
    )


def _batches(paths: list[str], *, name: str, progress: bool) -> Iterable[list[str]]:
    with tqdm(total=len(paths), desc=name, disable=not progress) as bar:
        for start in range(0, len(paths), MOST_AT_ONCE):
            batch = paths[start : start + MOST_AT_ONCE]
            yield batch
            bar.update(len(batch))
