# SPDX-License-Identifier: Apache-2.0
"""The cohort of a run folder, checked against what was trained on it, with its preprocessed volumes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ldae.data.artefact import CONFIG_NAME, read_json, whole
from ldae.data.cache import VolumeCache
from ldae.data.cohort import read_cohort
from ldae.data.shard import Shard
from ldae.data.spec import PreprocessingSpec
from ldae.data.split import split_hash
from ldae.errors import CheckpointError


@dataclass(frozen=True)
class RunCohort:
    """A cohort whose scans lie preprocessed in the run's cache.

    Attributes:
        frame: One row a scan; the column `key` names its entry in cache and latent store.
        cache: The preprocessed volumes.
        split: Hash of its split.
    """

    frame: pd.DataFrame
    cache: VolumeCache
    split: str


def open_run_cohort(
    run_dir: Path,
    *,
    cohort: str | Path | None,
    trained: Path,
    shard: Shard | None = None,
    progress: bool = False,
) -> RunCohort:
    """Read the cohort, check its split against that of a trained component, and fill the cache.

    Args:
        run_dir: Folder of the run.
        cohort: Cohort CSV or BIDS folder; None takes cohort/cohort.csv of the run.
        trained: Folder of a component that was trained on it.
        shard: Keep only this part of it; None keeps all.
        progress: Show a bar.

    Raises:
        InputError: The cohort has faults.
        CheckpointError: The component was trained on another split.
    """
    path = Path(cohort) if cohort else run_dir / "cohort" / "cohort.csv"
    with whole(trained / CONFIG_NAME):
        document = read_json(trained / CONFIG_NAME)
        spec, trained_on = PreprocessingSpec.from_dict(document["spec"]), str(document["split"])
    cache = VolumeCache(run_dir / "cache", spec)
    frame = read_cohort(
        path,
        # the voxels of the part are read below, those of the others by their own jobs
        check="voxels" if shard is None else "headers",
        trusted=lambda scan: str(scan) in cache,
        progress=progress,
    )
    split = split_hash(frame)
    if split != trained_on:
        raise CheckpointError(
            f"{trained} was trained on split {trained_on[:12]}, but {path} "
            f"has split {split[:12]}. Bring the old split column back, or train anew in another --run_dir."
        )
    if shard is not None:
        frame = frame.iloc[shard.places]
    cache.prepare(list(frame["path"]), progress=progress)
    return RunCohort(frame.assign(key=[cache.key(scan) for scan in frame["path"]]), cache, split)


def read_volumes(cache: VolumeCache, paths: Sequence[str]) -> Tensor:
    """Cached scans as float32 [B, 1, X, Y, Z] in [0, 1]."""
    return torch.stack([torch.from_numpy(np.array(cache.volume(path)))[None].float() for path in paths])
