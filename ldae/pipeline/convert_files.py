# SPDX-License-Identifier: Apache-2.0
"""Older checkpoint files as named tensors, without executing any pickle, and their keys under new names."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ldae.errors import CheckpointError, InputError

ZIP_START = b"PK\x03\x04"
PICKLE_START = b"\x80\x02"
ASKED_FOR = re.compile(r"GLOBAL (\S+)")


@dataclass(frozen=True)
class OldCheckpoint:
    """What an older file holds.

    Attributes:
        path: The file.
        tensors: Its tensors by name.
        arguments: Constructor arguments that Lightning stored beside them, if any.
    """

    path: Path
    tensors: dict[str, Tensor]
    arguments: dict[str, Any] = field(default_factory=dict)


def read_checkpoint(path: str | Path) -> OldCheckpoint:
    """Read a state dict, a Lightning checkpoint or a safetensors file.

    Nothing in the file is executed: of a pickle only tensors and plain containers are taken.

    Raises:
        FileNotFoundError: The file does not exist.
        InputError: It is no such file, or wants to build other objects than tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"A checkpoint must be a file, got {path}, which does not exist. Check the path."
        )
    with path.open("rb") as stream:
        start = stream.read(9)
    if start[8:9] == b"{":
        return OldCheckpoint(path, _read_safetensors(path))
    if not start.startswith((ZIP_START, PICKLE_START)):
        raise _no_checkpoint(path, "its first bytes are those of neither")
    document = _read_torch(path)
    tensors = document.get("state_dict", document) if isinstance(document, Mapping) else document
    if not isinstance(tensors, Mapping):
        raise _no_checkpoint(path, f"it holds a {type(tensors).__name__}")
    others = [
        name for name, value in tensors.items() if not (isinstance(name, str) and isinstance(value, Tensor))
    ]
    if others or not tensors:
        raise _no_checkpoint(path, f"its entries {others[:5]} are no tensors" if others else "it is empty")
    arguments = {} if tensors is document else document.get("hyper_parameters", {})
    return OldCheckpoint(path, dict(tensors), dict(arguments) if isinstance(arguments, Mapping) else {})


def _read_torch(path: Path) -> Any:
    try:
        # mapping the file keeps a 10 GB checkpoint out of memory; the oldest format cannot be mapped
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        asked = ASKED_FOR.search(str(error))
        if asked is None:
            raise _no_checkpoint(path, str(error).splitlines()[0]) from error
        raise InputError(
            f"A checkpoint must hold tensors and plain values, but {path} asks for the class {asked[1]}, "
            "which "
            "is not built here because that would run code from the file. Where you trust its origin, load "
            "it "
            "once with the program that wrote it and save its state dict alone: "
            'safetensors.torch.save_file(checkpoint["state_dict"], "weights.safetensors").'
        ) from error
    except Exception as error:
        # torch's reader fails on torn files in any way that a byte may lead to, down to AssertionError
        raise _no_checkpoint(path, str(error).splitlines()[0] if str(error) else "it ends early") from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise _no_checkpoint(path, str(error)) from error
    return tensors


def _no_checkpoint(path: Path, reason: str) -> InputError:
    return InputError(
        f"A checkpoint must be a whole PyTorch or safetensors file of named tensors, but {path} is not: "
        f"{reason}. "
        "Copy the file again, or give another one."
    )


def part_of(
    tensors: Mapping[str, Tensor], *, anchor: str, prefix: str | None = None, what: str
) -> tuple[str, dict[str, Tensor]]:
    """One network out of a file that may hold several, found by a key that only such a network has.

    Where a file has the network and its average (a prefix with "ema"), the average is taken.

    Args:
        tensors: Everything in the file.
        anchor: Name of the key inside the network.
        prefix: What stands before the network's keys; looked for by default.
        what: The network in words.

    Returns:
        The prefix, and the network's tensors without it.

    Raises:
        InputError: There is no such network, or several and no prefix says which.
    """
    found = sorted(name.removesuffix(anchor) for name in tensors if name.endswith(anchor))
    found = [name for name in found if name == "" or name.endswith(".")]
    if prefix is not None:
        found = [name for name in found if name == prefix]
    averages = [name for name in found if "ema" in re.split(r"[._]", name)]
    chosen = averages if len(averages) == 1 else found
    if len(chosen) != 1:
        raise InputError(
            f"The file must hold one {what}, a key that ends in {anchor!r}, got "
            + (
                f"several, under {found}. Give the prefix of one of them."
                if found
                else "none. Check the kind."
            )
        )
    start = chosen[0]
    return start, {name[len(start) :]: value for name, value in tensors.items() if name.startswith(start)}


def renamed(
    tensors: Mapping[str, Tensor],
    names: Mapping[str, str],
    *,
    shapes: Mapping[str, Tensor],
    without: Iterable[str] = (),
    what: str,
) -> dict[str, Tensor]:
    """Tensors under their new names, with every key of both sides accounted for.

    Args:
        tensors: Old tensors by old name.
        names: Old name of every new name.
        shapes: A tensor of the right shape for every new name.
        without: Old names that are known to have no successor.
        what: The network in words.

    Returns:
        float32 tensors that share no memory with the old ones; other than floating types are kept.

    Raises:
        CheckpointError: Keys are missing or left over, or shapes differ; the message lists all of them.
    """
    missing = sorted(old for old in names.values() if old not in tensors)
    unexpected = sorted(tensors.keys() - set(names.values()) - set(without))
    others = [
        f"{old} {tuple(tensors[old].shape)} for {tuple(shapes[new].shape)}"
        for new, old in names.items()
        if old in tensors and tensors[old].shape != shapes[new].shape
    ]
    if missing or unexpected or others:
        raise CheckpointError(
            f"Keys of the {what} must be those of its architecture: missing {missing or 'none'}, unexpected "
            f"{unexpected or 'none'}, other shape {others or 'none'}."
        )
    return {new: plain(tensors[old]) for new, old in names.items()}


def plain(tensor: Tensor) -> Tensor:
    """A copy, float32 where it is of a floating type."""
    return (
        tensor.detach()
        .to(torch.float32 if tensor.is_floating_point() else tensor.dtype, copy=True)
        .contiguous()
    )
