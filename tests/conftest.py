# SPDX-License-Identifier: Apache-2.0
"""What holds for every test: no network, neither here nor in the processes that it starts; one tiny run."""

from __future__ import annotations

import fcntl
import os
import runpy
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
OFFLINE = ROOT / "tests" / "offline"
TINY_SUBJECTS = 40

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(OFFLINE), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
)
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
runpy.run_path(str(OFFLINE / "sitecustomize.py"))


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    """Headless Chromium, which notes what it asks the network for; downloads go to tmp_path/downloads."""
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("chromium and chromedriver are not installed: apt-get install chromium chromium-driver")
    options = selenium.ChromeOptions()
    options.binary_location = chromium
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,900"):
        options.add_argument(word)
    options.add_argument(f"--user-data-dir={tmp_path / 'profile'}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    options.add_experimental_option("prefs", {"download.default_directory": str(tmp_path / "downloads")})
    session = selenium.Chrome(options=options, service=selenium.ChromeService(driver))
    yield session
    session.quit()


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of a tiny pipeline (16x24x16 at 10 mm), trained through the command line. Read it only."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    run, done = shared / "tiny_run", shared / "tiny_run.done"
    with (shared / "tiny_run.lock").open("w") as lock:
        # the workers of one session share it: the first one trains
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            _train(run)
            done.touch()
    return run


def _train(run: Path) -> None:
    from ldae.cli.main import main

    for words in _commands(run):
        code = main(list(map(str, words)))
        if code:
            pytest.fail(f"`ldae {' '.join(map(str, words))}` ended with {code}")


def _commands(run: Path) -> Iterator[list[object]]:
    size = ["--spacing", 10, "--size", 16, 24, 16]
    yield ["phantom", "--out", run / "cohort", "--subjects", TINY_SUBJECTS, *size, "--jobs", 1]
    for name in ("aekl", "ldae_pretrain", "ldae_repr_learn"):
        overlay = ["--config", ROOT / "tests" / "tiny" / f"{name}.yaml", "--run_dir", run]
        yield ["fit", "--config", f"demo/{name}.yaml", *overlay]
        if name == "aekl":
            yield ["latents", "--run-dir", run]
    cohort = ["--cohort", run / "cohort" / "cohort.csv", "--cache", run / "cache"]
    yield ["embed", "--pipeline", run / "pipeline", *cohort, "--out", run]
    for target in ("diagnosis", "age"):
        yield ["probe", "--run-dir", run, "--target", target]
