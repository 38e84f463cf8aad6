# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C and SIGTERM, by which a person, a scheduler or a machine that shuts down ends a process."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from typing import Any

from ldae.errors import Interrupted

TERMINATED = 128 + signal.SIGTERM  # as a shell tells that SIGTERM ended a program

TWICE = 1.0
"""Seconds within which a further SIGTERM is the same one: `timeout` tells a process and then its group."""


class Terminated(KeyboardInterrupt):
    """The process was told to end, and cleans up as after Ctrl-C; the message, if any, says what is saved."""


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM raise `Terminated`, unless whoever started this process has said otherwise.

    Libraries that are just being imported may turn that, or Ctrl-C, into an error of their own, or into half
    a module that later fails: what is raised after either signal is raised as the end that was asked for.

    Raises:
        KeyboardInterrupt: Ctrl-C.
        Terminated: SIGTERM.
    """
    if current_thread() is not main_thread():
        yield
        return
    told: dict[int, float] = {}

    def end(number: int, frame: Any) -> None:
        before = told.get(number, -math.inf)
        told[number] = time.monotonic()
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        if told[number] - before >= TWICE:
            raise Terminated

    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    ours = {number: handler for number, handler in usual.items() if signal.getsignal(number) is handler}
    for number in ours:
        signal.signal(number, end)
    try:
        yield
    except Exception as error:
        if not told or isinstance(error, Interrupted):
            raise
        raise (Terminated if signal.SIGTERM in told else KeyboardInterrupt) from error
    finally:
        for number, handler in ours.items():
            signal.signal(number, handler)
