# SPDX-License-Identifier: Apache-2.0
"""What holds for every test: no network, neither here nor in the processes that a test starts."""

from __future__ import annotations

import os
import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OFFLINE = ROOT / "tests" / "offline"

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(OFFLINE), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
)
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
runpy.run_path(str(OFFLINE / "sitecustomize.py"))
