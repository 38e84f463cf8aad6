# SPDX-License-Identifier: Apache-2.0
"""What an evaluation works on: a pipeline, the scans of one split, and the folder for the results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ldae.data.cache import CachedVolumes
from ldae.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray
    from torch import Tensor

    from ldae.data.cache import VolumeCache
    from ldae.pipeline import LDAEPipeline

SCANS_AT_ONCE = 32
"""Latents that are worked on at a time."""


@dataclass(frozen=True)
class Material:
    """Where everything lies that an evaluation reads and writes.

    Attributes:
        pipeline: Folder of the pipeline that is judged.
        cohort: The cohort's table.
        out: Folder of the results.
        run_dir: Folder of the run, for preprocessed volumes and for codes that evaluations share.
        split: The scans it is judged on.
        device: "auto" (a GPU where there is one), "cpu", "cuda:1" and so on.
        progress: Show bars.
    """

    pipeline: Path
    cohort: Path
    out: Path
    run_dir: Path
    split: str = "test"
    device: str = "auto"
    progress: bool = False

    @classmethod
    def of(
        cls,
        pipeline: str | Path,
        cohort: str | Path,
        *,
        out: str | Path,
        run_dir: str | Path | None = None,
        split: str = "test",
        device: str = "auto",
        progress: bool = False,
    ) -> Material:
        """The material of an evaluation; without a run folder it is the one that holds the pipeline."""
        pipeline = Path(pipeline)
        run_dir = Path(run_dir) if run_dir else pipeline.parent
        return cls(pipeline, Path(cohort), Path(out), run_dir, split=split, device=device, progress=progress)

    @property
    def shared(self) -> Path:
        """Folder of the codes that evaluations share."""
        return self.run_dir / "evaluation" / "codes"


@dataclass(frozen=True)
class ScanSet:
    """Preprocessed scans with the pipeline that is judged on them.

    Attributes:
        pipeline: The pipeline.
        frame: The whole cohort; the column `key` names the entry in the cache.
        cache: The preprocessed volumes.
        rows: The scans of the split, a part of `frame` with its own index 0, 1, ...
    """

    pipeline: LDAEPipeline
    frame: pd.DataFrame
    cache: VolumeCache
    rows: pd.DataFrame

    def volumes(self, rows: pd.DataFrame) -> Tensor:
        """Scans of some rows, float32 [N, 1, X, Y, Z] in [0, 1]."""
        from ldae.pipeline.run_cohort import read_volumes

        return read_volumes(self.cache, list(rows["path"]))

    def maps(self, rows: pd.DataFrame) -> CachedVolumes:
        """The same, memory-mapped one by one as they are asked for: [X, Y, Z] each."""
        return CachedVolumes(self.cache, list(rows["path"]))

    def part(self, split: str) -> pd.DataFrame:
        """The scans of another split."""
        return self.frame[self.frame["split"] == split].reset_index(drop=True)


def open_scans(material: Material) -> ScanSet:
    """Load the pipeline, and preprocess the cohort where that has not been done.

    Raises:
        FileNotFoundError: Pipeline or cohort is missing; the message says what makes it.
        InputError: The cohort has faults, or no scan in the split.
        CheckpointError: The pipeline was trained on another split.
    """
    from ldae.pipeline import LDAEPipeline
    from ldae.pipeline.run_cohort import open_run_cohort

    pipeline = LDAEPipeline.from_pretrained(material.pipeline, device=material.device)
    run = open_run_cohort(
        material.run_dir,
        cohort=material.cohort,
        trained=material.pipeline / "representation",
        progress=material.progress,
    )
    rows = run.frame[run.frame["split"] == material.split].reset_index(drop=True)
    if rows.empty:
        raise InputError(
            f"split must be one that {material.cohort} holds, got {material.split!r}. See its split column."
        )
    return ScanSet(pipeline, run.frame, run.cache, rows)


def visit_order(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows by subject and visit: by months since the first visit where known, else by session."""
    from ldae.data.split import natural_key

    sessions = [natural_key(str(name)) for name in rows["session"]]
    months = rows["visit_months"] if "visit_months" in rows.columns else np.zeros(len(rows))
    keys = list(zip(rows["subject"].astype(str), months, sessions, range(len(rows)), strict=True))
    return rows.iloc[[key[-1] for key in sorted(keys)]]


def first_visits(rows: pd.DataFrame, *, limit: int | None = None, seed: int = 0) -> pd.DataFrame:
    """One scan a subject, the first visit; of so many subjects at most, drawn with a seed.

    Subjects keep the order of `rows`, and a larger `limit` adds to the subjects of a smaller one.
    """
    firsts = visit_order(rows).drop_duplicates("subject").sort_index()
    if limit is None or limit >= len(firsts):
        return firsts
    chosen = np.random.default_rng(seed).permutation(len(firsts))[:limit]
    return firsts.iloc[np.sort(chosen)]


def other_subject(subjects: Sequence[str], *, seed: int = 0) -> NDArray[np.intp]:
    """For each scan the place of a scan of another subject; every scan is taken once.

    Raises:
        InputError: More than half of the scans are of one subject.
    """
    names, groups, sizes = np.unique(np.asarray(subjects), return_inverse=True, return_counts=True)
    step = int(sizes.max())
    if 2 * step > len(groups):
        raise InputError(
            f"Scans must be of several subjects, none with more than half of them, got {step} of "
            f"{len(groups)} of one."
        )
    # With the scans of a subject side by side, a turn by the largest number of scans leaves every subject.
    rank = np.random.default_rng(seed).permutation(len(names))[groups]
    circle = np.argsort(rank, kind="stable")
    partner = np.empty_like(circle)
    partner[circle] = np.roll(circle, step)
    return partner
