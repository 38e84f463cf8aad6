# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ldae.errors import CheckpointError
from ldae.pipeline.code import Code
from ldae.pipeline.pipeline import LDAEPipeline


@pytest.fixture(scope="module")
def code(pipe: LDAEPipeline, scans: list[str]) -> Code:
    return replace(pipe.encode(scans[0], steps=2), auxiliary={"state": torch.arange(6.0).reshape(2, 3)})


def test_round_trip(code: Code, pipe: LDAEPipeline, tmp_path: Path) -> None:
    found = Code.load(code.save(tmp_path / "a" / "code.safetensors"))
    assert torch.equal(found.semantic, code.semantic)
    assert torch.equal(found.stochastic, code.stochastic)
    assert torch.equal(found.auxiliary["state"], code.auxiliary["state"])
    assert found.pipeline == pipe.sha256
    assert code.geometry is not None
    assert found.geometry is not None
    assert found.geometry.header == code.geometry.header
    np.testing.assert_array_equal(found.geometry.affine, code.geometry.affine)
    assert found.intensity == code.intensity
    torch.testing.assert_close(pipe.decode(found, steps=2).data, pipe.decode(code, steps=2).data)


def test_metadata_is_plain_json(code: Code, tmp_path: Path) -> None:
    with safe_open(code.save(tmp_path / "code.safetensors"), framework="pt") as stream:
        document = json.loads(stream.metadata()["ldae_code"])
    assert set(document) == {"ldae_version", "pipeline", "place", "solver"}


def test_saved_code_of_another_pipeline_is_refused(code: Code, pipe: LDAEPipeline, tmp_path: Path) -> None:
    path = replace(code, pipeline="0" * 64).save(tmp_path / "code.safetensors")
    with pytest.raises(CheckpointError, match=rf"pipeline 000000000000.*{pipe.sha256[:12]}"):
        pipe.decode(Code.load(path))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"code\.safetensors is missing"):
        Code.load(tmp_path / "code.safetensors")


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no tensors")
    with pytest.raises(CheckpointError, match="must be a code in safetensors"):
        Code.load(tmp_path / "text")
    save_file({"weight": torch.zeros(1)}, tmp_path / "weights")
    with pytest.raises(CheckpointError, match=r"Code\.save wrote, got tensors \['weight'\]"):
        Code.load(tmp_path / "weights")
