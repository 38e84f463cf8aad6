# SPDX-License-Identifier: Apache-2.0
"""Processes side by side: one that dies takes no other along, and none outlives a killed parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ldae.data.ingest.pool import each

HERE = Path(__file__).parent
PARENT = """
import signal
from pathlib import Path
from ldae.data.ingest.pool import each
from test_pool import wait_long
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job's is ignored
each(wait_long, [Path({folder!r}) / name for name in "ab"], jobs=2, lost=str, name="x", progress=False)
"""
PATIENCE = 60


def wait_long(mark: Path) -> str:
    """Leave this process's number and stay."""
    mark.write_text(str(os.getpid()))
    time.sleep(10 * PATIENCE)
    return mark.name


def double_or_die(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * number


def lose(number: int) -> int:
    return -number


def alive(number: int) -> bool:
    """Whether a process runs; one that has ended but has not been waited for does not."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(ready: Callable[[], bool], told: str) -> None:
    end = time.monotonic() + PATIENCE
    while not ready():
        assert time.monotonic() < end, told
        time.sleep(0.05)


def test_a_process_that_dies_takes_no_other_task_along() -> None:
    results = each(double_or_die, range(1, 6), jobs=2, lost=lose, name="x", progress=False)
    assert results == [2, 4, -3, 8, 10]


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="the system has no /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_none_outlives_a_parent_that_is_ended(tmp_path: Path, number: int) -> None:
    """And the parent waits for none."""
    script = PARENT.format(folder=str(tmp_path))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    parent = subprocess.Popen([sys.executable, "-c", script], env=environment, stderr=subprocess.DEVNULL)
    marks = [tmp_path / name for name in "ab"]
    until(lambda: all(mark.is_file() and mark.read_text() for mark in marks), "the processes did not start")
    children = [int(mark.read_text()) for mark in marks]
    assert all(map(alive, children))
    parent.send_signal(number)
    parent.wait(timeout=PATIENCE)
    until(lambda: not any(map(alive, children)), "a process outlives its parent")
