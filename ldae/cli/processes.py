# SPDX-License-Identifier: Apache-2.0
"""The processes of one training: which of them writes and speaks, and how they end together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch.distributed import DistError

PATIENCE = 4.0
"""Seconds that a process which lost another one waits to learn how that one ended."""
ORDERED = (128 + signal.SIGINT, 128 + signal.SIGTERM)
"""Exit codes of a process that was told to end, as the others were: they may have something left to save."""
LOOKED_AFTER = 0.25
"""Seconds between two looks at the processes that this one has started."""


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

    Where one of them fails and this one does not notice, as it waits for it to start or calculates for long,
    this one is ended with the reason. On a cluster that starts the processes itself,
    `srun --kill-on-bad-exit` does this.

    Raises:
        SystemExit: Another process failed first; its own words are on stderr, too.
    """
    # Lightning's own broadcasts within the signal's handler, perhaps in the middle of another collective
    trainer._signal_connector._sigterm_notifier_fn = _say_nothing  # type: ignore[method-assign,assignment]
    over = threading.Event()
    if getattr(trainer.strategy.launcher, "num_processes", 1) > 1:
        threading.Thread(target=_watch, args=(trainer, over), daemon=True).start()
    try:
        yield
    except BaseException as error:
        over.set()
        others = _started_by(trainer)
        failed = _first_failed(others) if isinstance(error, RuntimeError) else None
        for process in others:
            process.kill()
        if failed is not None:
            raise SystemExit(_tell(*failed)) from error
        if _is_loss(error):
            print("ldae: Another process of this training has ended, and so does this one.", file=sys.stderr)
            raise SystemExit(1) from error
        raise
    finally:
        over.set()


def _watch(trainer: Trainer, over: threading.Event) -> None:
    """End all processes once one that this one has started failed, unless this one ends by itself.

    Lightning's own observer kills this one without a word, within five seconds.
    """
    launcher: Any = trainer.strategy.launcher
    others: Sequence[subprocess.Popen[bytes]] = []
    while not over.wait(LOOKED_AFTER):
        if not others and len(launcher.procs) == launcher.num_processes - 1:
            others = _started_by(trainer)
        failed = _failed(others)
        if failed is None:
            continue
        if not over.wait(PATIENCE * (5 if failed[1] in ORDERED else 1)):
            for process in others:
                process.kill()
            code = _tell(*failed)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)  # the main thread waits within a library
        return


def _tell(number: int, code: int) -> int:
    """Say how a process ended; the code that this one ends with."""
    how = f"was killed by signal {-code}" if code < 0 else f"ended with {code} and said why above"
    print(f"ldae: Process {number} of this training {how}; all have ended.", file=sys.stderr)
    return max(code, 1)


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
        failed = _failed(processes)
        if failed is not None or time.monotonic() >= deadline:
            return failed
        time.sleep(0.05)


def _failed(processes: Sequence[subprocess.Popen[bytes]]) -> tuple[int, int] | None:
    codes = [process.poll() for process in processes]
    return next(((rank, code) for rank, code in enumerate(codes, start=1) if code), None)
