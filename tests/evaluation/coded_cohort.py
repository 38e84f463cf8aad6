# SPDX-License-Identifier: Apache-2.0
"""Embeddings of a cohort whose codes are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from ldae.data.split import split_subjects
from ldae.pipeline.embeddings import write_embeddings

SIZE = 6


def write_coded_cohort(folder: Path, *, subjects: int, pipeline: str = "p" * 64) -> Path:
    """Codes whose first number says the diagnosis and whose second says the age, both with noise."""
    random = np.random.default_rng(0)
    severity = np.arange(subjects) % 3
    codes = random.normal(size=(subjects, SIZE)).astype(np.float32)
    frame = pd.DataFrame(
        {
            "subject": [f"s{number:03d}" for number in range(subjects)],
            "session": "1",
            "path": "scan.nii.gz",
            "diagnosis": np.array(["CN", "MCI", "AD"])[severity],
            "age": 70 + 8 * codes[:, 1] + random.normal(size=subjects),
            "sex": np.array(["F", "M"])[np.arange(subjects) % 2],
        }
    )
    frame["split"] = split_subjects(frame)
    codes[:, 0] += 1.5 * severity
    codes[:, 2] *= 100
    frame = pd.concat([frame, pd.DataFrame(codes, columns=[f"y_{i:03d}" for i in range(SIZE)])], axis=1)
    frame.attrs = {"pipeline": pipeline, "code_std": codes.std(axis=0).tolist()}
    path = folder / "embeddings.parquet"
    write_embeddings(frame, path)
    return path
