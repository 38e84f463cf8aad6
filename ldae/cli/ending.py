# SPDX-License-Identifier: Apache-2.0
"""SIGTERM as an exception: how a scheduler, a supervisor or a machine that shuts down ends a process."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from typing import Any

TERMINATED = 128 + signal.SIGTERM  # as a shell tells that SIGTERM ended a program

TWICE = 1.0
"""Seconds within which a further SIGTERM is the same one: `timeout` tells a process and then its group."""


class Terminated(KeyboardInterrupt):
    """The process was told to end, and cleans up as after Ctrl-C; the message, if any, says what is saved."""


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM raise `Terminated`, unless whoever started this process has said otherwise."""
    if current_thread() is not main_thread() or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    told = -math.inf

    def end(number: int, frame: Any) -> None:
        nonlocal told
        before, told = told, time.monotonic()
        if told - before >= TWICE:
            raise Terminated

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
