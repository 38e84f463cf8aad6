# SPDX-License-Identifier: Apache-2.0
"""A run folder opened for its report, and what a section of the page is made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ldae.evaluation.material import Material, ScanSet, open_scans
from ldae.report.figures import (
    encode_png,
)
from ldae.report.renderings import Job, Viewer, read_jobs, short_path

PIXELS_PER_INCH = 102


@dataclass(frozen=True)
class Picture:
    """One figure of the page.

    Attributes:
        source: Data URI of the image.
        width: Width at which it is shown, pixels.
        alt: What is to be seen, for those who cannot see it.
        caption: What it means.
        command: What made it.
    """

    source: str
    width: int
    alt: str
    caption: str
    command: str


@dataclass
class Section:
    """One part of the page."""

    title: str
    text: str
    pictures: list[Picture] = field(default_factory=list)


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

    def table(self, evaluation: str, name: str) -> pd.DataFrame:
        """A table of an evaluation."""
        return pd.read_csv(self.run_dir / "evaluation" / evaluation / name)

    def has(self, name: str) -> bool:
        """Whether a verb has written its record, or files match."""
        return name in self.jobs or any(self.run_dir.glob(name))

    def command(self, words: str) -> str:
        """A command on this run."""
        return f"ldae {words} --run-dir {short_path(self.run_dir)}"


def make_picture(figure: Figure, *, alt: str, caption: str, command: str) -> Picture:
    width = round(float(figure.get_size_inches()[0]) * PIXELS_PER_INCH)
    return Picture(encode_png(figure), width, alt=alt, caption=caption, command=command)


def scan_name(run: Run, path: Path) -> str:
    """Subject, session, diagnosis and age of a scan, or its file name."""
    rows = run.scans.frame[run.scans.frame["path"] == str(path)]
    if rows.empty:
        return path.name
    row = rows.iloc[0]
    known = [str(row["diagnosis"])] if isinstance(row["diagnosis"], str) else []
    known += [f"{row['age']:.0f} years"] if np.isfinite(row["age"]) else []
    return ", ".join([f"{row['subject']} {row['session']}", *known])
