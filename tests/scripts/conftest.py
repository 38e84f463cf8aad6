# SPDX-License-Identifier: Apache-2.0
"""The scripts as modules, and the tiny pipeline of the pipeline tests."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from tiny_pipeline import make_run

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Imports a script by its name."""
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with cohort, three stages with random weights, and the assembled pipeline."""
    return make_run(tmp_path_factory.mktemp("run"))
