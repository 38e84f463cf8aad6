# SPDX-License-Identifier: Apache-2.0
"""The processes of one training: which of them writes and speaks, and how they end together."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch.distributed import DistError

PATIENCE = 4.0
"""Seconds that a process which lost another one waits to learn how that one ended."""


def is_first() -> bool:
    """Whether this process writes and speaks for all; known before there is a trainer."""
    return not rank_zero_only.rank  # type: ignore[attr-defined]


def is_ordered(order: bool, *, trainer: Trainer) -> bool:
    """Whether one of the processes was told to end; each of them asks at the same place of the training."""
    ordered: bool = trainer.strategy.reduce_boolean_decision(order, all=False)
    if ordered:
        _started_by(trainer)
        trainer.strategy.barrier()
    return ordered


@contextmanager
def ending_together(trainer: Trainer) -> Iterator[None]:
    """End the processes that this one has started where it fails, with the code of the one that failed first.

    On a cluster that starts the processes itself, `srun --kill-on-bad-exit` does this.

    Raises:
        SystemExit: Another process failed first; its own words are on stderr, too.
    """
    # Lightning's own broadcasts within the signal's handler, perhaps in the middle of another collective
    trainer._signal_connector._sigterm_notifier_fn = _say_nothing  # type: ignore[method-assign,assignment]
    try:
        yield
    except BaseException as error:
        others = _started_by(trainer)
        failed = _first_failed(others) if isinstance(error, RuntimeError) else None
        for process in others:
            process.kill()
        if failed is not None:
            number, code = failed
            how = f"was killed by signal {-code}" if code < 0 else f"ended with {code} and said why above"
            print(f"ldae: Process {number} of this training {how}; all have ended.", file=sys.stderr)
            raise SystemExit(max(code, 1)) from error
        if _is_loss(error):
            print("ldae: Another process of this training has ended, and so does this one.", file=sys.stderr)
            raise SystemExit(1) from error
        raise


def _say_nothing(number: int, frame: Any) -> None:
    pass


def _started_by(trainer: Trainer) -> Sequence[subprocess.Popen[bytes]]:
    """The processes that this one has started; from now on it is not killed where one of them ends."""
    launcher: Any = trainer.strategy.launcher
    watched: list[subprocess.Popen[bytes]] = getattr(launcher, "procs", [])
    if watched:
        launcher.procs = list(watched)
        watched.clear()  # which Lightning's observer looks through
        return list(launcher.procs)
    return []


def _is_loss(error: BaseException) -> bool:
    """Whether this is how the end of another process shows: as a connection that is gone."""
    return isinstance(error, DistError) or (
        isinstance(error, RuntimeError) and "gloo/transport" in str(error)
    )


def _first_failed(processes: Sequence[subprocess.Popen[bytes]]) -> tuple[int, int] | None:
    """Rank and exit code of a process that failed."""
    deadline = time.monotonic() + (PATIENCE if processes else 0)
    while True:
        for rank, process in enumerate(processes, start=1):
            code = process.poll()
            if code:
                return rank, code
        if time.monotonic() >= deadline:
            return None
        time.sleep(0.05)
