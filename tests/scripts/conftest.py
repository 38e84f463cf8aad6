# SPDX-License-Identifier: Apache-2.0
"""The scripts as modules, and the tiny pipeline of the pipeline tests."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from ldae.data.cohort import read_cohort
from ldae.data.split import split_hash

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests" / "pipeline"))


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Imports a script by its name."""
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with cohort, three stages with random weights, and the assembled pipeline."""
    from tiny_pipeline import save_stages, write_cohort_csv

    from ldae.pipeline.assemble import assemble_pipeline

    folder = tmp_path_factory.mktemp("run")
    cohort = write_cohort_csv(folder / "cohort")
    save_stages(folder, split=split_hash(read_cohort(cohort)))
    assemble_pipeline(folder, device="cpu")
    return folder
