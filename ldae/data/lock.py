# SPDX-License-Identifier: Apache-2.0
"""One writer to a folder: a lock of the system's, which ends with its process, however that ends."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from ldae.data.artefact import clear_partials
from ldae.data.storage import opening
from ldae.errors import InputError

RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
_held: set[Path] = set()


@contextmanager
def held(folder: str | Path, *, part: str = "") -> Iterator[None]:
    """Keep a folder, or a part of it, to this process while it is written.

    A process that holds it already goes on, and so do the other ranks of a distributed training. The
    first writer after one that was killed clears away what it and its workers left half written.

    Args:
        folder: The folder; it is made, and taken away again where nothing was written into it.
        part: What is written of it, such as a stage of a run; empty for the whole folder.

    Raises:
        InputError: Another process writes there.
        StorageError: The folder cannot be made.
    """
    folder = Path(os.path.abspath(folder))
    place = folder / part
    path = place.with_name(f".{place.name}.lock") if part else folder / ".lock"
    if path in _held or any(os.environ.get(rank, "0") != "0" for rank in RANKS):
        yield
        return
    made = [parent for parent in path.parents if not parent.exists()]
    with opening(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = _lock(path)
    _held.add(path)
    stream.seek(0)
    killed = bool(stream.read())  # a holder that ends takes its lock away
    try:
        if killed:
            clear_partials(folder, deep=True)
        with opening(path):
            _sign(stream)
        yield
        if killed:  # processes that worked for it may have ended later
            clear_partials(folder, deep=True)
    finally:
        _held.discard(path)
        path.unlink(missing_ok=True)
        with suppress(OSError):  # a full disk has not taken the signature, nor will it now
            stream.close()
        for parent in made:
            with suppress(OSError):
                parent.rmdir()


def _lock(path: Path) -> IO[str]:
    """The locked file; one that its last holder has just taken away is made again."""
    while True:
        stream = path.open("a+", encoding="utf-8")
        try:
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            owner = _owner(stream)
            stream.close()
            raise InputError(
                f"{path.parent} must be written by one command at a time, but process {owner[0]} on "
                f"{owner[1]} is writing there. Wait until it ends, or name another folder."
            ) from error
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(stream.fileno()), path.stat()):
                return stream
        stream.close()


def _sign(stream: IO[str]) -> None:
    stream.truncate(0)
    json.dump([os.getpid(), socket.gethostname()], stream)
    stream.flush()


def _owner(stream: IO[str]) -> tuple[object, object]:
    """Process and host that signed the lock; unknown before they did."""
    stream.seek(0)
    try:
        process, host = json.loads(stream.read())
    except (ValueError, TypeError):
        return "?", "?"
    return process, host
