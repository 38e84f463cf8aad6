# SPDX-License-Identifier: Apache-2.0
"""A tiny run to judge: scans with a dark cavity of known volume, and a pipeline with random weights."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from scipy import ndimage
from tiny_pipeline import save_stages

from ldae.data.cohort import read_cohort
from ldae.data.split import freeze_split, split_hash
from ldae.pipeline.assemble import assemble_pipeline
from ldae.pipeline.embed_cohort import embed_cohort

SUBJECTS = 60
VISITS = 3
SIZE = (16, 24, 16)
SPACING = 8.0


def write_scan(path: Path, *, ventricle_ml: float, seed: int) -> None:
    """A bright ellipsoid with texture of its own and a dark ball of this volume in the middle."""
    places = np.indices(SIZE).T - (np.array(SIZE) - 1) / 2
    random = np.random.default_rng(seed)
    brain = np.linalg.norm(places / (np.array(SIZE) / 2.2), axis=-1).T < 1
    texture = 1 + 0.5 * ndimage.gaussian_filter(random.normal(size=SIZE), 1.5)
    radius = (3 * 1000 * ventricle_ml / (4 * np.pi)) ** (1 / 3) / SPACING
    cavity = 1 / (1 + np.exp(4 * (np.linalg.norm(places, axis=-1).T - radius)))
    voxels = np.where(brain, np.clip(texture, 0.3, 2) * (1 - 0.8 * cavity), 0) * 500
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels.astype(np.int16), np.diag([SPACING, SPACING, SPACING, 1])), path)


def write_cohort_csv(folder: Path) -> Path:
    """CN, MCI and AD in turns, some with three visits; volume and age rise with the disease and the visit."""
    random = np.random.default_rng(0)
    rows = []
    for subject in range(SUBJECTS):
        severity = subject % 3
        for visit in range(VISITS if subject % 2 else 1):
            name = f"scans/sub-{subject:02d}_ses-{visit + 1}_T1w.nii.gz"
            volume = 40 + 40 * severity + 5 * visit + 10 * random.normal()
            write_scan(folder / name, ventricle_ml=volume, seed=10 * subject + visit)
            rows.append(
                {
                    "subject": f"sub-{subject:02d}",
                    "session": f"ses-{visit + 1}",
                    "path": name,
                    "diagnosis": ("CN", "MCI", "AD")[severity],
                    "age": 60 + 3 * severity + visit + round(10 * random.random(), 1),
                    "visit_months": 12 * visit,
                    "ventricle_ml": volume,
                }
            )
    pd.DataFrame(rows).to_csv(folder / "cohort.csv", index=False)
    freeze_split(folder / "cohort.csv", fractions=(0.5, 0.1, 0.1, 0.3))
    return folder / "cohort.csv"


def make_judged_run(folder: Path) -> Path:
    """Cohort, pipeline and embeddings, as after training."""
    cohort = write_cohort_csv(folder / "cohort")
    save_stages(folder, split=split_hash(read_cohort(cohort)))
    pipeline = assemble_pipeline(folder, device="cpu")
    embed_cohort(pipeline, cohort, out=folder / "embeddings.parquet", cache=folder / "cache", device="cpu")
    return folder
