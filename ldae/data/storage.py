# SPDX-License-Identifier: Apache-2.0
"""Files that cannot be written: a full disk and its like, in one sentence with the file's name."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ldae.errors import StorageError

FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "it is larger than a file may be here (ulimit -f)",
    errno.EROFS: "the disk is read-only",
    errno.EIO: "the disk reports an error",
}
CLOSED = {
    errno.EACCES: "you may not write there",
    errno.EPERM: "you may not write there",
    errno.EEXIST: "a file lies where a folder is needed",
    errno.ENOTDIR: "a file lies where a folder is needed",
    errno.EISDIR: "a folder lies in its place",
    errno.ENAMETOOLONG: "its name is too long",
}
# Libraries that write by themselves tell the number in words only: Rust's, Arrow's, NumPy's, PyTorch's.
NUMBER = re.compile(r"(?:os error |\[Errno )(\d+)")
SHORT = re.compile(
    r"requested and \d+ written|PytorchStreamWriter failed|file write failed|inline_container|unexpected pos"
)


def full_disk(error: BaseException) -> str | None:
    """Why a write came to nothing, in words; None where the disk is not the reason."""
    text = str(error)
    told = NUMBER.search(text)
    number = int(told.group(1)) if told else getattr(error, "errno", None)
    if number in FULL:
        return FULL[number]
    return "the disk is full" if SHORT.search(text) else None


@contextmanager
def opening(path: Path) -> Iterator[None]:
    """Put into words why a file cannot be made or put in its place."""
    try:
        yield
    except OSError as error:
        reason = {**FULL, **CLOSED}.get(error.errno or 0)
        if reason is None:
            raise
        raise _unwritten(path, reason) from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Put into words that there is no room for a file; other errors pass."""
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        reason = full_disk(error)
        if reason is None:
            raise
        raise _unwritten(path, reason) from error


def _unwritten(path: Path, reason: str) -> StorageError:
    return StorageError(
        f"{path} cannot be written: {reason}. What lay there before is unchanged: make room or choose "
        "another place, and give the same command again."
    )
