# SPDX-License-Identifier: Apache-2.0
"""Older files are read without executing them, and nothing in them is lost unseen."""

from __future__ import annotations

import contextlib
import os
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ldae.errors import CheckpointError, InputError
from ldae.pipeline.convert_files import part_of, read_checkpoint, renamed

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.count": torch.tensor(3)}


class Trap:
    """Pickles to a call of the operating system."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("new_format", [True, False])
def test_plain_state_dicts_are_read(tmp_path: Path, new_format: bool) -> None:
    path = tmp_path / "weights.pth"
    torch.save(OrderedDict(TENSORS), path, _use_new_zipfile_serialization=new_format)
    found = read_checkpoint(path)
    assert found.arguments == {}
    assert all(torch.equal(found.tensors[name], value) for name, value in TENSORS.items())


def test_lightning_checkpoints_are_unwrapped(tmp_path: Path) -> None:
    document = {
        "epoch": 3,
        "state_dict": TENSORS,
        "hyper_parameters": {"lr": 1e-4, "unet_args": {"num_heads": 2}},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(1.0)}}}],
    }
    torch.save(document, tmp_path / "last.ckpt")
    found = read_checkpoint(tmp_path / "last.ckpt")
    assert found.tensors.keys() == TENSORS.keys()
    assert found.arguments["unet_args"] == {"num_heads": 2}


def test_safetensors_are_read_whatever_their_name(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "weights.pth")
    assert torch.equal(read_checkpoint(tmp_path / "weights.pth").tensors["a.weight"], TENSORS["a.weight"])


@pytest.mark.parametrize("new_format", [True, False])
def test_a_pickled_call_is_refused_and_not_made(tmp_path: Path, new_format: bool) -> None:
    path, mark = tmp_path / "trap.pt", tmp_path / "executed"
    torch.save({"state_dict": TENSORS, "x": Trap(mark)}, path, _use_new_zipfile_serialization=new_format)
    with pytest.raises(
        InputError, match=r"asks for the class \w+\.system, which is not built here .*save_file"
    ):
        read_checkpoint(path)
    assert not mark.exists()


def test_a_foreign_class_is_named(tmp_path: Path) -> None:
    torch.save({"state_dict": TENSORS, "hyper_parameters": Namespace(lr=1)}, tmp_path / "last.ckpt")
    with pytest.raises(
        InputError, match=r"last\.ckpt asks for the class argparse\.Namespace, .* would run code"
    ):
        read_checkpoint(tmp_path / "last.ckpt")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "first bytes are those of neither"),
        (b"hello, this is a letter", "first bytes are those of neither"),
        (b"PK\x03\x04 and no more", "PytorchStreamReader|zip"),
        (b"\x80\x02X\xff", "unpack requires"),
        (b"\x09\x00\x00\x00\x00\x00\x00\x00{nothing}", "header|expected"),
    ],
    ids=["empty", "text", "zip", "pickle", "safetensors"],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "file.pth"
    path.write_bytes(content)
    with pytest.raises(
        InputError, match=rf"whole PyTorch or safetensors file .*file\.pth is not: .*(?:{reason})"
    ):
        read_checkpoint(path)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(TENSORS, path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match="whole PyTorch or safetensors file"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ([1, 2], "it holds a list"),
        ({"state_dict": torch.ones(1)}, "it holds a Tensor"),
        ({}, "it is empty"),
        ({"lr": 0.1, "a": torch.ones(1)}, r"its entries \['lr'\] are no tensors"),
    ],
)
def test_files_without_named_tensors_are_refused(tmp_path: Path, document: Any, reason: str) -> None:
    torch.save(document, tmp_path / "weights.pth")
    with pytest.raises(InputError, match=reason):
        read_checkpoint(tmp_path / "weights.pth")


@pytest.mark.slow
def test_a_changed_byte_is_harmless_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    for new_format in (True, False):
        torch.save(TENSORS, path, _use_new_zipfile_serialization=new_format)
        whole = path.read_bytes()
        generator = torch.Generator().manual_seed(0)
        for _ in range(300):
            place = int(torch.randint(len(whole), (), generator=generator))
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
            with contextlib.suppress(InputError):
                assert all(isinstance(value, Tensor) for value in read_checkpoint(path).tensors.values())


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="which does not exist"):
        read_checkpoint(tmp_path / "weights.pth")


def held(*prefixes: str) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for prefix in prefixes for name, value in TENSORS.items()}


@pytest.mark.parametrize(
    ("prefixes", "asked", "expected"),
    [
        (("",), None, ""),
        (("net.",), None, "net."),
        (("unet.", "ema_unet."), None, "ema_unet."),
        (("one.", "two."), "two.", "two."),
    ],
)
def test_networks_are_found_by_their_anchor(
    prefixes: tuple[str, ...], asked: str | None, expected: str
) -> None:
    start, tensors = part_of(held(*prefixes), anchor="a.weight", prefix=asked, what="net")
    assert start == expected
    assert tensors.keys() == TENSORS.keys()


def test_ambiguous_and_absent_networks_are_refused() -> None:
    with pytest.raises(
        InputError, match=r"one net, .* got several, under \['one\.', 'two\.'\]\. Give the prefix"
    ):
        part_of(held("one.", "two."), anchor="a.weight", what="net")
    with pytest.raises(InputError, match=r"got none\. Check the kind"):
        part_of(held("one.b"), anchor="a.weight", what="net")


def test_renaming_lists_every_fault() -> None:
    names = {"new.weight": "a.weight", "new.bias": "a.bias", "new.count": "a.count"}
    shapes = {"new.weight": torch.ones(3, 2), "new.bias": torch.ones(3), "new.count": torch.tensor(0)}
    with pytest.raises(CheckpointError) as caught:
        renamed(
            {**TENSORS, "z": torch.ones(1), "dead": torch.ones(1)},
            names,
            shapes=shapes,
            without=["dead"],
            what="net",
        )
    assert str(caught.value) == (
        "Keys of the net must be those of its architecture: missing ['a.bias'], unexpected ['z'], "
        "other shape ['a.weight (2, 3) for (3, 2)']."
    )


def test_renaming_copies_and_widens() -> None:
    half = {"a": torch.ones(2, dtype=torch.float16), "n": torch.tensor(2)}
    new = renamed(half, {"b": "a", "m": "n"}, shapes={"b": torch.ones(2), "m": torch.tensor(0)}, what="net")
    half["a"][0] = 5
    assert new["b"].tolist() == [1.0, 1.0]
    assert (new["b"].dtype, new["m"].dtype) == (torch.float32, torch.int64)
