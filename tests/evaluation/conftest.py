# SPDX-License-Identifier: Apache-2.0
"""A tiny run that every evaluation judges."""

from __future__ import annotations

from pathlib import Path

import pytest
from judged_run import make_judged_run

from ldae.evaluation.material import Material, ScanSet, open_scans


@pytest.fixture(scope="session")
def judged_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with cohort, pipeline with random weights, and embeddings."""
    return make_judged_run(tmp_path_factory.mktemp("judged"))


@pytest.fixture(scope="session")
def material(judged_run: Path) -> Material:
    return Material.of(
        judged_run / "pipeline",
        judged_run / "cohort" / "cohort.csv",
        out=judged_run / "evaluation" / "any",
        device="cpu",
    )


@pytest.fixture(scope="session")
def scan_set(material: Material) -> ScanSet:
    return open_scans(material)
