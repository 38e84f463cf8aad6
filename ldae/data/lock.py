# SPDX-License-Identifier: Apache-2.0
"""One writer to a folder: a lock of the system's, which ends with its process, however that ends."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from ldae.data.artefact import PARTIAL
from ldae.data.storage import opening
from ldae.errors import InputError

RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
_held: set[Path] = set()


@contextmanager
def held(folder: str | Path, *, part: str = "") -> Iterator[None]:
    """Keep a folder, or a part of it, to this process while it is written.

    A process that holds it already goes on, and so do the other ranks of a distributed training. The
    first writer after one that was killed clears away the files that it left half written.

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
    try:
        _clear(folder, _owner(stream))
        _sign(stream)
        yield
    finally:
        _held.discard(path)
        path.unlink(missing_ok=True)
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


def _clear(folder: Path, owner: tuple[object, object]) -> None:
    """Delete what a process that died here had not finished."""
    if owner[1] != socket.gethostname() or owner[0] == os.getpid():
        return
    for path in list(folder.rglob(f"{PARTIAL}{owner[0]}-*")):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
