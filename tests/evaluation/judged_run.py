# SPDX-License-Identifier: Apache-2.0
"""A tiny run to judge: synthetic scans of known anatomy, and a pipeline with random weights."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

from ldae.data.cohort import read_cohort
from ldae.data.phantom import make_phantom
from ldae.data.split import split_hash
from ldae.pipeline.assemble import assemble_pipeline
from ldae.pipeline.embeddings import embed_cohort

TINY_PIPELINE = Path(__file__).resolve().parents[1] / "pipeline" / "conftest.py"
SUBJECTS = 72


def tiny_pipeline() -> ModuleType:
    """The builder of the pipeline tests."""
    spec = importlib.util.spec_from_file_location("tiny_pipeline", TINY_PIPELINE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_judged_run(folder: Path) -> Path:
    """Cohort, pipeline and embeddings, as after training."""
    tiny = tiny_pipeline()
    cohort = make_phantom(
        folder / "cohort",
        subjects=SUBJECTS,
        spacing=tiny.SPEC.spacing[0],
        size=tiny.SPEC.size,
        visits_test=(0.1, 0.6),
        jobs=1,
    )
    tiny.save_stages(folder, split=split_hash(read_cohort(cohort)))
    pipeline = assemble_pipeline(folder, device="cpu")
    embed_cohort(
        pipeline, cohort, out=folder / "embeddings.parquet", cache=folder / "cache", device="cpu"
    )
    return folder
