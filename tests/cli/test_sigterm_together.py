# SPDX-License-Identifier: Apache-2.0
"""SIGTERM and SIGKILL to some of the processes of one training: all end in seconds, and say why."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from ldae.cli.checkpoint import EpochCheckpoint

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0


def others_of(process: int) -> list[int]:
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [int(child) for child in children if "run_cli" in Path(f"/proc/{child}/cmdline").read_text()]


@pytest.fixture
def training(tiny: Path, request: pytest.FixtureRequest) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Two processes of a training: the first one, and the number of the other, which may just have begun."""
    words = ["--config", tiny, "--config", ROOT / "configs" / "ddp.yaml", "--trainer.devices", "2"]
    words += ["--trainer.accelerator", "cpu", "--trainer.max_epochs", "100000"]
    first = subprocess.Popen(
        [sys.executable, "run_cli.py", "fit", *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + PATIENCE
    started = getattr(request, "param", True)
    while not (tiny.parent / "run/checkpoints/tiny/stage.json").is_file() and time.monotonic() < deadline:
        if not started and others_of(first.pid):
            break
        time.sleep(0.05)
    yield first, others_of(first.pid)[0]
    with suppress(ProcessLookupError):
        os.killpg(first.pid, signal.SIGKILL)


def is_alive(process: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("told", ["first", "other", "both"])
def test_sigterm_to_any_ends_all(tiny: Path, training, told: str) -> None:
    first, other = training
    for process in {"first": [first.pid], "other": [other], "both": [other, first.pid]}[told]:
        os.kill(process, signal.SIGTERM)
    began = time.monotonic()
    _, err = first.communicate(timeout=PATIENCE)
    assert time.monotonic() - began < 10
    assert first.returncode == 143, err
    assert not is_alive(other)
    checkpoint = tiny.parent / "run" / "checkpoints" / "tiny" / "last.ckpt"
    assert err.splitlines()[-1] == (
        f"ldae: Stopped and saved in {checkpoint}. The same command goes on from there."
    )
    assert "Traceback" not in err
    assert torch.load(checkpoint, weights_only=True)["epoch"] >= 0
    assert not list((tiny.parent / "run").rglob(".partial*"))
    assert not list((tiny.parent / "run").rglob(".*.lock"))


@pytest.mark.slow
@pytest.mark.parametrize("training", [True, False], ids=["in training", "at its start"], indirect=True)
def test_the_first_process_says_that_another_was_killed(training) -> None:
    first, other = training
    os.kill(other, signal.SIGKILL)
    began = time.monotonic()
    _, err = first.communicate(timeout=PATIENCE)
    assert time.monotonic() - began < 30
    assert first.returncode == 1
    assert err.splitlines()[-1] == "ldae: Process 1 of this training was killed by signal 9; all have ended."


@pytest.mark.slow
def test_the_other_process_says_that_the_first_was_killed(training) -> None:
    first, other = training
    first.kill()
    _, err = first.communicate(timeout=PATIENCE)
    assert not is_alive(other)
    assert err.splitlines()[-1] == "ldae: Another process of this training has ended, and so does this one."
    assert "Traceback" not in err


def test_a_signal_that_comes_while_the_processes_ask_each_other_is_kept(tmp_path: Path) -> None:
    class Strategy:
        def reduce_boolean_decision(self, decision: bool, **how: bool) -> bool:
            os.kill(os.getpid(), signal.SIGTERM)
            return decision

    class Asked:
        strategy = Strategy()
        world_size = 2
        accumulate_grad_batches = 1
        train_dataloader = None

    checkpoint = EpochCheckpoint(
        tmp_path / "last.ckpt", started=0.0, earlier=0.0, saving=lambda seconds: None, kept=False
    )
    trainer: Any = Asked()
    module: Any = None
    checkpoint.on_train_start(trainer, module)
    try:
        checkpoint.on_train_batch_start(trainer, module, None, 0)
    finally:
        checkpoint.on_train_end(trainer, module)
    assert checkpoint.terminated
