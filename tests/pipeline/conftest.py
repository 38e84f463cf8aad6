# SPDX-License-Identifier: Apache-2.0
"""A tiny pipeline with random weights, assembled as a trained one is, and heads on its codes."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from tiny_pipeline import make_run

from ldae.data.cohort import read_cohort
from ldae.heads import LinearProbe, RidgeProbe
from ldae.pipeline.pipeline import LDAEPipeline


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with cohort, three stages with random weights, and the assembled pipeline."""
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="session")
def cohort(run_dir: Path) -> pd.DataFrame:
    return read_cohort(run_dir / "cohort" / "cohort.csv")


@pytest.fixture(scope="session")
def pipe(run_dir: Path) -> LDAEPipeline:
    return LDAEPipeline.from_pretrained(run_dir / "pipeline", device="cpu")


@pytest.fixture(scope="session")
def scans(cohort: pd.DataFrame) -> list[str]:
    """Paths of four scans."""
    return list(cohort["path"][:4])


@pytest.fixture(scope="session")
def embeddings(pipe: LDAEPipeline, cohort: pd.DataFrame) -> pd.DataFrame:
    return pipe.embed(cohort)


@pytest.fixture(scope="session")
def diagnosis_head(embeddings: pd.DataFrame) -> LinearProbe:
    codes = embeddings.filter(regex=r"^y_").to_numpy()
    return LinearProbe(regularisation=[0.1], positive_label="AD").fit(
        codes, embeddings["diagnosis"].to_numpy()
    )


@pytest.fixture(scope="session")
def age_head(embeddings: pd.DataFrame) -> RidgeProbe:
    codes = embeddings.filter(regex=r"^y_").to_numpy()
    return RidgeProbe(regularisation=[1.0]).fit(codes, embeddings["age"].to_numpy())
