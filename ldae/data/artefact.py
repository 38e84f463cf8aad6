# SPDX-License-Identifier: Apache-2.0
"""Artefacts on disk: atomic writes, content hashes, and components as config.json + model.safetensors."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldae import __version__
from ldae.data.storage import opening, writing
from ldae.errors import CheckpointError, InputError

if TYPE_CHECKING:
    from torch import Tensor

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
PARTIAL = ".partial-"
ABANDONED = 24 * 3600
"""Seconds after which a half-written file of elsewhere is nobody's: no single file takes so long."""
NETWORKS = ("autoencoder", "denoiser", "representation")


@dataclass(frozen=True)
class Component:
    """One trained part of the pipeline as it lies on disk.

    Attributes:
        kind: What it is, such as "autoencoder".
        config: Constructor arguments of the network, plain JSON types.
        tensors: Weights and buffers by name.
        spec: Preprocessing spec of the scans it was trained on, as a dictionary, or None.
        split: Hash of the subject split it was trained on, or None.
        parents: sha256 of the components it was made from, by kind.
        extra: Whatever else belongs to it (schedule, prediction target, training summary).
        sha256: Hash of this component: configuration, parents and weights.
    """

    kind: str
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    spec: dict[str, Any] | None
    split: str | None
    parents: dict[str, str]
    extra: dict[str, Any] = field(default_factory=dict)
    sha256: str = ""


def sha256_bytes(data: bytes) -> str:
    """Hex digest of `data`."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: str | Path) -> str:
    """Hex digest of a file's content."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """Hex digest of a value's canonical JSON form (sorted keys, no spaces)."""
    return sha256_bytes(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` that replaces it when the block ends without an error.

    The suffixes are kept, since writers such as nibabel choose the format by them.

    Raises:
        StorageError: There is no room for it, or it may not be written.
    """
    path = Path(path)
    if path.name.startswith(PARTIAL):
        # its maker puts it in place, and tells of faults by the name that was wanted
        yield path
        return
    with opening(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        suffix = "".join(path.suffixes[-2:])
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=partial_prefix(), suffix=suffix)
        os.close(handle)
    temporary = Path(name)
    try:
        with writing(path):
            yield temporary
        with opening(path):
            temporary.chmod(0o644)
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: str | Path, *, last: str) -> Iterator[Path]:
    """A temporary folder whose files replace those of `folder` when the block ends without an error.

    All of them are written before the first is put in place. A component's configuration follows its weights,
    and the file `last`, which names the others, comes at the end.
    """
    folder = Path(folder)
    with opening(folder):
        folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder, prefix=partial_prefix()))
    try:
        yield temporary
        files = [path for path in temporary.rglob("*") if path.is_file()]
        for path in sorted(files, key=lambda path: (path.name == last, path.name == CONFIG_NAME)):
            target = folder / path.relative_to(temporary)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def partial_prefix() -> str:
    """How names of files begin that this process is writing: with its number and where it has that number."""
    return f"{PARTIAL}{os.getpid()}@{_here()}~"


@lru_cache(maxsize=1)
def _here() -> str:
    """Where numbers of processes mean the same: a machine since it was started, or a container."""
    place = [socket.gethostname()]
    with suppress(OSError):
        place.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"))
        place.append(os.readlink("/proc/self/ns/pid"))
    return sha256_json(place)[:12]


def clear_partials(folder: str | Path, *, deep: bool = False) -> None:
    """Delete what processes that were killed have left half written.

    Args:
        folder: Where they wrote; it need not exist.
        deep: In the folders within it too.
    """
    folder = Path(folder)
    for path in list((folder.rglob if deep else folder.glob)(f"{PARTIAL}*")):
        with suppress(OSError):
            if not _is_abandoned(path):
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def _is_abandoned(path: Path) -> bool:
    """Whether the process is gone that was writing this; of one elsewhere nothing is known but the time."""
    writer = re.match(rf"{re.escape(PARTIAL)}(\d+)@(\w+)~", path.name)
    if writer is None:
        return False
    if writer[2] == _here():
        return not _is_alive(int(writer[1]))
    # not the time of change, which a link takes over from what it links to
    return time.time() - path.stat().st_ctime > ABANDONED


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        return True
    return True


def to_json(value: Any) -> str:
    """`value` as indented JSON."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(to_json(value), encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        FileNotFoundError: The file does not exist.
        CheckpointError: The file is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} must be JSON, but reading it failed: {error}. Make it anew."
        ) from error


@contextmanager
def whole(path: str | Path) -> Iterator[None]:
    """Around the use of a document that was read: what is missing or of another type damages it.

    Networks are built of it, too, which torch refuses with a RuntimeError where a size makes no sense.

    Raises:
        CheckpointError: With the file's name and what is wrong.
    """
    try:
        yield
    except (
        InputError,
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        IndexError,
        RuntimeError,
    ) as error:
        if type(error).__name__ == "OutOfMemoryError":  # torch's, of a GPU: no document is to blame
            raise
        told = " ".join(str(error).split())  # of torch and pandas it may be several lines
        reason = f"misses {told}" if isinstance(error, KeyError) else f"does not fit: {told}"
        raise CheckpointError(
            f"{path} must be as ldae wrote it, but {reason.rstrip('.')}. Make it anew or copy it whole."
        ) from error


def save_component(
    folder: str | Path,
    *,
    kind: str,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    spec: Mapping[str, Any] | None = None,
    split: str | None = None,
    parents: Mapping[str, str] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> str:
    """Write a component folder and return its sha256.

    Both files are written before the first is put in place: a full disk leaves the old component. The
    weights go first and the configuration, which names their hash, last: a folder torn between the two is
    recognised by `load_component`.
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    with atomic_path(folder / CONFIG_NAME) as described, atomic_path(folder / WEIGHTS_NAME) as temporary:
        save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, temporary)
        document = {
            "kind": kind,
            "ldae_version": __version__,
            "config": dict(config),
            "spec": None if spec is None else dict(spec),
            "split": split,
            "parents": dict(parents or {}),
            "extra": dict(extra or {}),
            "weights_sha256": sha256_file(temporary),
        }
        described.write_text(to_json(document), encoding="utf-8")
    return sha256_json(document)


def component_sha256(folder: str | Path) -> str:
    """The sha256 of a component folder, from its configuration (which names the hash of the weights)."""
    return sha256_json(read_json(Path(folder) / CONFIG_NAME))


def pipeline_sha256(components: Mapping[str, str]) -> str:
    """Hash of a pipeline from the sha256 of its components; only the networks count."""
    return sha256_json({kind: components[kind] for kind in NETWORKS})


def load_component(folder: str | Path, kind: str) -> Component:
    """Read a component folder and check that it is whole and of the wanted kind.

    Raises:
        FileNotFoundError: The folder, its configuration or its weights are missing.
        CheckpointError: It is another kind of component, or weights and configuration do not belong together.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder / name} is missing: {folder} must be a folder of kind {kind!r}."
            )
    document = read_json(folder / CONFIG_NAME)
    found = document.get("kind") if isinstance(document, dict) else None
    if found != kind:
        raise CheckpointError(f"{folder} must hold a component of kind {kind!r}, got {found!r}.")
    with whole(folder / CONFIG_NAME):
        component = Component(
            kind=kind,
            config=dict(document["config"]),
            tensors={},
            spec=document["spec"],
            split=document["split"],
            parents=dict(document["parents"]),
            extra=dict(document["extra"]),
            sha256=sha256_json(document),
        )
        expected = str(document["weights_sha256"])
    weights = sha256_file(folder / WEIGHTS_NAME)
    if weights != expected:
        raise CheckpointError(
            f"{folder / WEIGHTS_NAME} has sha256 {weights[:12]}, but {CONFIG_NAME} beside it was written for "
            f"{expected[:12]}: the folder is damaged or mixed. Make it anew or copy it whole."
        )
    try:
        return replace(component, tensors=load_file(folder / WEIGHTS_NAME))
    except SafetensorError as error:
        raise CheckpointError(
            f"{folder / WEIGHTS_NAME} must be a safetensors file: {error}. Make it anew or copy it whole."
        ) from error
