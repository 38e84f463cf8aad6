# SPDX-License-Identifier: Apache-2.0
"""A run folder opened for its report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ldae.evaluation.material import Material, ScanSet, open_scans
from ldae.report.commands import evaluation_words
from ldae.report.renderings import Job, Viewer, read_jobs, short_path


@dataclass(frozen=True)
class Run:
    """A run folder, opened for its report."""

    run_dir: Path
    scans: ScanSet
    jobs: dict[str, Job]
    viewer: Viewer

    @classmethod
    def open(cls, run_dir: Path, *, device: str = "auto") -> Run:
        """Load the pipeline and find what the verbs wrote."""
        material = Material.of(
            run_dir / "pipeline",
            run_dir / "cohort" / "cohort.csv",
            out=run_dir / "evaluation",
            device=device,
        )
        scans = open_scans(material)
        return cls(run_dir, scans, read_jobs(run_dir), Viewer(scans.pipeline))

    @property
    def cohort(self) -> Path:
        """The cohort's table."""
        return self.run_dir / "cohort" / "cohort.csv"

    def table(self, evaluation: str, name: str) -> pd.DataFrame:
        """A table of an evaluation."""
        return pd.read_csv(self.run_dir / "evaluation" / evaluation / name)

    def has(self, name: str) -> bool:
        """Whether a verb has written its record, or files match."""
        return name in self.jobs or any(self.run_dir.glob(name))

    def command(self, words: str) -> str:
        """A command on this run."""
        return f"ldae {words} --run-dir {short_path(self.run_dir)}"

    def evaluation(self, name: str) -> str:
        """The command that made an evaluation of this run."""
        return self.command(evaluation_words(self.run_dir / "evaluation" / name))


def scan_name(run: Run, path: Path) -> str:
    """Subject, session, diagnosis and age of a scan, or its file name."""
    rows = run.scans.frame[run.scans.frame["path"] == str(path)]
    if rows.empty:
        return path.name
    row = rows.iloc[0]
    known = [str(row["diagnosis"])] if isinstance(row["diagnosis"], str) else []
    known += [f"{row['age']:.0f} years"] if np.isfinite(row["age"]) else []
    return ", ".join([f"{row['subject']} {row['session']}", *known])
