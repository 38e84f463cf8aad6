# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ldae.data.artefact import read_json, write_json
from ldae.errors import CheckpointError
from ldae.pipeline.pipeline import LDAEPipeline

Load = Callable[[], LDAEPipeline]


@pytest.fixture
def folder(run_dir: Path, tmp_path: Path) -> Path:
    """A copy of the pipeline's folder, to be damaged."""
    return shutil.copytree(run_dir / "pipeline", tmp_path / "pipeline")


@pytest.fixture
def load(folder: Path) -> Load:
    return lambda: LDAEPipeline.from_pretrained(folder, device="cpu")


def test_index_names_every_component(run_dir: Path, pipe: LDAEPipeline) -> None:
    document = json.loads((run_dir / "pipeline" / "model_index.json").read_text())
    assert document["_class_name"] == "LDAEPipeline"
    assert document["sha256"] == pipe.sha256
    assert document["spec"] == pipe.spec.to_dict()
    assert set(document["components"]) == {"autoencoder", "denoiser", "representation", "statistics"}


def test_saved_pipeline_says_the_same(pipe: LDAEPipeline, scans: list[str], tmp_path: Path) -> None:
    copy = LDAEPipeline.from_pretrained(pipe.save_pretrained(tmp_path / "copy"), device="cpu")
    assert copy.sha256 == pipe.sha256
    code = pipe.encode(scans[0], steps=3)
    found = copy.encode(scans[0], steps=3)
    assert torch.equal(found.semantic, code.semantic)
    assert torch.equal(found.stochastic, code.stochastic)
    assert torch.equal(copy.decode(code, steps=3).data, pipe.decode(code, steps=3).data)
    for kind in ("autoencoder", "statistics"):
        weights = tmp_path / "copy" / kind / "model.safetensors"
        assert weights.read_bytes() == (pipe.folder / kind / "model.safetensors").read_bytes()


def test_saving_onto_itself_changes_nothing(folder: Path, load: Load) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    load().save_pretrained(folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_folder_that_is_no_pipeline(tmp_path: Path, folder: Path, load: Load) -> None:
    with pytest.raises(FileNotFoundError, match=r"model_index\.json is missing.*ldae assemble"):
        LDAEPipeline.from_pretrained(tmp_path / "nothing")
    write_json(folder / "model_index.json", {"_class_name": "StableDiffusionPipeline"})
    with pytest.raises(
        CheckpointError, match="must be the index of a LDAEPipeline, got 'StableDiffusionPipeline'"
    ):
        load()


@pytest.mark.parametrize(
    ("kind", "command"),
    [
        ("autoencoder", "aekl.yaml"),
        ("denoiser", "ldae_pretrain.yaml"),
        ("representation", "ldae_repr_learn.yaml"),
        ("statistics", "assemble"),
    ],
)
def test_a_missing_component_says_what_makes_it(folder: Path, load: Load, kind: str, command: str) -> None:
    shutil.rmtree(folder / kind)
    with pytest.raises(FileNotFoundError, match=f"{kind}.*is missing.*{command}"):
        load()


def test_tampered_weights(folder: Path, load: Load) -> None:
    path = folder / "denoiser" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"denoiser.*damaged or mixed"):
        load()


def test_tampered_configuration(folder: Path, load: Load) -> None:
    path = folder / "denoiser" / "config.json"
    document = read_json(path)
    document["config"]["prediction"] = "eps"
    write_json(path, document)
    with pytest.raises(CheckpointError, match=r"denoiser in .* has sha256 .* but model_index\.json names"):
        load()


@pytest.fixture(scope="module")
def other_run(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stages of another training on the same cohort."""
    from tiny_pipeline import save_stages

    folder = tmp_path_factory.mktemp("other")
    split = read_json(run_dir / "autoencoder" / "config.json")["split"]
    save_stages(folder, split=split, seed=9)
    return folder


def test_a_component_of_another_training(folder: Path, load: Load, other_run: Path) -> None:
    wanted = read_json(folder / "model_index.json")["components"]["autoencoder"]["sha256"]
    shutil.copytree(other_run / "autoencoder", folder / "autoencoder", dirs_exist_ok=True)
    with pytest.raises(CheckpointError, match=rf"autoencoder in .* has sha256 .* names {wanted[:12]}"):
        load()


def test_an_index_that_lies_about_parents(folder: Path, load: Load, other_run: Path) -> None:
    shutil.copytree(other_run / "autoencoder", folder / "autoencoder", dirs_exist_ok=True)
    index = read_json(folder / "model_index.json")
    old = index["components"]["autoencoder"]["sha256"]
    from ldae.data.artefact import component_sha256

    new = component_sha256(folder / "autoencoder")
    index["components"]["autoencoder"]["sha256"] = new
    write_json(folder / "model_index.json", index)
    with pytest.raises(CheckpointError, match=rf"made from autoencoder {old[:12]}, .*is {new[:12]}"):
        load()
