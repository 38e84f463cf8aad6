# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ldae.data.artefact import (
    atomic_path,
    component_sha256,
    load_component,
    read_json,
    save_component,
    sha256_file,
    sha256_json,
    whole,
    write_json,
)
from ldae.errors import CheckpointError

TENSORS = {"weight": torch.arange(6.0).reshape(2, 3), "half": torch.ones(2, dtype=torch.float16)}


def save(folder: Path, **changes: object) -> str:
    arguments: dict[str, object] = {
        "kind": "autoencoder",
        "config": {"channels": [8, 16]},
        "tensors": TENSORS,
    }
    return save_component(folder, **{**arguments, **changes})  # type: ignore[arg-type]


def test_component_round_trip(tmp_path: Path) -> None:
    sha256 = save(tmp_path, spec={"size": [1, 2, 3]}, split="abc", parents={"x": "y"}, extra={"epochs": 3})
    found = load_component(tmp_path, "autoencoder")
    assert (found.kind, found.config, found.split) == ("autoencoder", {"channels": [8, 16]}, "abc")
    assert (found.spec, found.parents, found.extra) == ({"size": [1, 2, 3]}, {"x": "y"}, {"epochs": 3})
    assert found.sha256 == sha256 == component_sha256(tmp_path)
    for name, value in TENSORS.items():
        assert found.tensors[name].dtype == value.dtype
        assert torch.equal(found.tensors[name], value)


def test_hash_follows_weights_configuration_and_parents(tmp_path: Path) -> None:
    hashes = {
        save(tmp_path / "a"),
        save(tmp_path / "b", tensors={"weight": torch.zeros(1)}),
        save(tmp_path / "c", config={"channels": [8]}),
        save(tmp_path / "d", parents={"x": "y"}),
    }
    assert len(hashes) == 4
    assert save(tmp_path / "e") == save(tmp_path / "f")


def test_tampered_weights_are_refused(tmp_path: Path) -> None:
    save(tmp_path)
    weights = tmp_path / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"sha256 .* the folder is damaged or mixed"):
        load_component(tmp_path, "autoencoder")


def test_wrong_kind_is_refused(tmp_path: Path) -> None:
    save(tmp_path)
    with pytest.raises(CheckpointError, match="kind 'denoiser', got 'autoencoder'"):
        load_component(tmp_path, "denoiser")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_part_is_named(tmp_path: Path, name: str) -> None:
    save(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        load_component(tmp_path, "autoencoder")


def test_a_document_that_is_no_json(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"\xff\xfe{")
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(CheckpointError, match="must be JSON"):
        load_component(tmp_path, "autoencoder")


def test_a_failing_writer_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii.gz"
    path.write_text("old")

    def write() -> None:
        with atomic_path(path) as temporary:
            assert temporary.name.endswith(".nii.gz")
            temporary.write_text("half")
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_is_atomic_and_canonical(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x.json"
    write_json(path, {"b": 1, "a": [1, 2]})
    assert read_json(path) == {"b": 1, "a": [1, 2]}
    assert sha256_json({"b": 1, "a": 2}) == sha256_json({"a": 2, "b": 1})
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(path, float("nan"))
    assert json.loads(path.read_text())["b"] == 1
    assert len(sha256_file(path)) == 64


def test_what_is_wrong_with_a_document_is_one_line() -> None:
    with pytest.raises(CheckpointError) as told, whole("config.json"):
        torch.nn.Linear(2, 2).load_state_dict({})
    assert str(told.value).startswith("config.json must be as ldae wrote it, but does not fit: Error(s) in")
    assert "\n" not in str(told.value)
    assert "\t" not in str(told.value)


def test_no_document_is_to_blame_for_a_full_gpu() -> None:
    with pytest.raises(torch.OutOfMemoryError, match="full"), whole("config.json"):
        raise torch.OutOfMemoryError("full")
