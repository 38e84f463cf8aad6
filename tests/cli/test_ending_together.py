# SPDX-License-Identifier: Apache-2.0
"""Processes that Lightning starts: one that fails ends all; a strategy that would hang is refused."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest

from ldae.cli.processes import _first_failed, ending_together

ROOT = Path(__file__).resolve().parents[2]
TOGETHER = ("--config", ROOT / "configs" / "ddp.yaml", "--trainer.devices", "2")


@pytest.mark.slow
def test_a_process_that_fails_ends_all_with_its_reason(tiny: Path) -> None:
    command = ["run_cli.py", "fit", "--config", tiny, *TOGETHER, "--trainer.accelerator", "cpu"]
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env={**os.environ, "TINY_STAGE_FAILS_IN": "1", "TINY_STAGE_FAILS_AS": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode != 0
    assert "failed on purpose" in done.stderr
    assert "Process 1 of this training ended with 1 and said why above" in done.stderr
    run = tiny.parent / "run"
    assert (run / "checkpoints" / "tiny" / "last.ckpt").is_file()
    assert not (run / "tiny").exists()


def test_several_devices_without_the_overlay_are_refused(tiny: Path, ldae: Callable[..., object]) -> None:
    said = ldae("fit", "--config", tiny, "--trainer.devices", "2")
    assert said.code == 2  # type: ignore[attr-defined]
    assert "how 2 processes train together, got 'auto'. Add --config ddp.yaml" in said.err  # type: ignore[attr-defined]


def test_the_other_processes_are_ended_with_this_one() -> None:
    class Launcher:
        procs: ClassVar = [subprocess.Popen(["sleep", "60"])]
        num_processes = 2

    class Strategy:
        launcher = Launcher

    class Trainer:
        strategy = Strategy
        _signal_connector = Launcher

    with pytest.raises(ValueError, match="mine"), ending_together(Trainer):  # type: ignore[arg-type]
        raise ValueError("mine")
    assert Launcher.procs[0].wait(timeout=10) == -9


def test_who_failed_first_is_told_by_its_exit_code() -> None:
    processes = [subprocess.Popen(["sleep", "0"]), subprocess.Popen(["sh", "-c", "exit 2"])]
    started = time.monotonic()
    assert _first_failed(processes) == (2, 2)
    assert time.monotonic() - started < 3
