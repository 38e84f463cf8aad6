# SPDX-License-Identifier: Apache-2.0
"""Stamps: what a step was asked for, what it read and what it wrote, so that it need not run again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ldae import __version__
from ldae.data.artefact import read_json, sha256_file, sha256_json, write_json
from ldae.errors import CheckpointError

# Files whose content is hashed inside a folder; of the others, scans and weights, the size is enough.
HASHED = {".csv", ".json", ".tsv", ".yaml"}


def fingerprint(path: str | Path) -> str:
    """Hash of a file, or of a folder: its files by name, with the content of tables and the size of the rest.

    A path that does not exist has the fingerprint "".
    """
    path = Path(path)
    if path.is_file():
        return sha256_file(path)
    if not path.is_dir():
        return ""
    files = sorted(found for found in path.rglob("*") if found.is_file())
    return sha256_json([[found.relative_to(path).as_posix(), _mark(found)] for found in files])


def is_current(
    stamp: str | Path, *, command: Sequence[str], inputs: Sequence[str | Path], outputs: Sequence[str | Path]
) -> bool:
    """Whether this step was done by this version with these inputs, and its outputs are as it left them."""
    if not Path(stamp).is_file():
        return False
    try:
        document = read_json(stamp)
    except CheckpointError:
        return False  # torn: the step is done again, and its stamp written anew
    if isinstance(document, dict):
        document.pop("seconds", None)
    return bool(document == _document(command, inputs, outputs=outputs))


def write_stamp(
    stamp: str | Path,
    *,
    command: Sequence[str],
    inputs: Sequence[str | Path],
    outputs: Sequence[str | Path],
    seconds: float,
) -> None:
    """Record a step that has just been done.

    Args:
        stamp: The file to write.
        command: What was asked for.
        inputs: Files and folders that it read.
        outputs: Files and folders that it wrote.
        seconds: How long it took.
    """
    write_json(stamp, {**_document(command, inputs, outputs=outputs), "seconds": seconds})


def _document(
    command: Sequence[str], inputs: Sequence[str | Path], *, outputs: Sequence[str | Path]
) -> dict[str, Any]:
    return {
        "ldae_version": __version__,
        "command": list(command),
        "inputs": {str(path): fingerprint(path) for path in inputs},
        "outputs": {str(path): fingerprint(path) for path in outputs},
    }


def _mark(path: Path) -> str:
    return sha256_file(path) if path.suffix in HASHED else str(path.stat().st_size)
