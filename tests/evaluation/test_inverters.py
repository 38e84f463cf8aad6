# SPDX-License-Identifier: Apache-2.0
"""The benchmark of candidates for an exact solver, on the tiny pipeline."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from ldae.evaluation.material import ScanSet

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "inverters.py"


@pytest.fixture(scope="module")
def inverters() -> ModuleType:
    spec = importlib.util.spec_from_file_location("inverters", BENCHMARK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["inverters"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_candidates_come_back(
    inverters: ModuleType, scan_set: ScanSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inverters, "REFERENCE_CALLS", 4)  # what it is compared with costs most of the time
    networks, volumes = scan_set.pipeline.networks, scan_set.volumes(scan_set.rows[:2])
    scans = inverters.Scans(networks, networks.compress(volumes), networks.describe(volumes))
    errors = {}
    for method, coordinate, inverter in inverters.ROWS:
        found = inverters.judge(scans, inverter, coordinate=coordinate, calls=4)
        errors[method, coordinate] = found["latent_error"]
        assert found["noise_std"] > 0
    forgetting = {key for key in errors if key[0].startswith(("DDIM", "Adams"))}
    # EDICT undoes its mixing by division, which lets rounding grow where the network says much
    most = 1e-2 * errors["DDIM", "z"]
    assert all(error < most for key, error in errors.items() if key not in forgetting), errors
    assert all(errors[key] > 1e-3 for key in forgetting), errors
