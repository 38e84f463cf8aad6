# SPDX-License-Identifier: Apache-2.0
"""The processes of one training: which of them writes and speaks, and how they end together."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_only

PATIENCE = 4.0
"""Seconds that a process which lost another one waits to learn how that one ended."""


def is_first() -> bool:
    """Whether this process writes and speaks for all; known before there is a trainer."""
    return not rank_zero_only.rank  # type: ignore[attr-defined]


@contextmanager
def ending_together(trainer: Trainer) -> Iterator[None]:
    """End the processes that this one has started where it fails, with the code of the one that failed first.

    On a cluster that starts the processes itself, `srun --kill-on-bad-exit` does this.

    Raises:
        SystemExit: Another process failed first; its own words are on stderr, too.
    """
    try:
        yield
    except BaseException as error:
        others: Sequence[subprocess.Popen[bytes]] = getattr(trainer.strategy.launcher, "procs", [])
        failed = _first_failed(others) if isinstance(error, RuntimeError) else None
        for process in others:
            process.kill()
        if failed is None:
            raise
        number, code = failed
        how = f"was killed by signal {-code}" if code < 0 else f"ended with {code} and said why above"
        print(f"ldae: Process {number} of this training {how}; all have ended.", file=sys.stderr)
        raise SystemExit(max(code, 1)) from error


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
