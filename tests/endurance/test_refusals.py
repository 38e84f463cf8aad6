# SPDX-License-Identifier: Apache-2.0
"""Artefacts that are damaged, exchanged, edited or harmful are refused by name; none is executed."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ldae.data.artefact import component_sha256, read_json, sha256_file, write_json
from ldae.data.latents import LatentStore
from ldae.errors import CheckpointError
from ldae.pipeline.code import Code
from ldae.pipeline.embeddings import read_embeddings
from ldae.pipeline.head_folder import load_head
from ldae.pipeline.pipeline import LDAEPipeline

KINDS = ("autoencoder", "denoiser", "representation", "statistics")
NETWORKS = KINDS[:3]


class Harm:
    """What a harmful pickle does when it is read: here it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


@pytest.fixture
def harm(tmp_path: Path) -> Path:
    """The file that the harmful pickle makes."""
    path = tmp_path / "harm"
    pickle.loads(pickle.dumps(Harm(path)))
    assert path.exists(), "the pickle would do harm"
    path.unlink()
    return path


@pytest.fixture
def pipeline(tiny_run: Path, tmp_path: Path) -> Path:
    """A pipeline of one's own to damage."""
    return Path(shutil.copytree(tiny_run / "pipeline", tmp_path / "pipeline"))


def agree(folder: Path) -> None:
    """Let configuration and index name the weights as they are now, as someone with intent would."""
    config = read_json(folder / "config.json")
    config["weights_sha256"] = sha256_file(folder / "model.safetensors")
    write_json(folder / "config.json", config)
    agree_index(folder)


def agree_index(folder: Path) -> None:
    pipeline = folder.parent
    index = read_json(pipeline / "model_index.json")
    hashes: dict[str, str] = {}
    for kind in KINDS:
        config = read_json(pipeline / kind / "config.json")
        config["parents"] = {parent: hashes[parent] for parent in config["parents"]}
        write_json(pipeline / kind / "config.json", config)
        hashes[kind] = component_sha256(pipeline / kind)
        index["components"][kind]["sha256"] = hashes[kind]
    write_json(pipeline / "model_index.json", index)


def load(pipeline: Path) -> LDAEPipeline:
    return LDAEPipeline.from_pretrained(pipeline, device="cpu")


@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_component(pipeline: Path, kind: str) -> None:
    path = pipeline / kind / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(CheckpointError, match=rf"{kind}/model.safetensors has sha256 .* damaged or mixed"):
        load(pipeline)
    agree(pipeline / kind)
    with pytest.raises(CheckpointError, match=rf"{kind}/model.safetensors must be a safetensors file"):
        load(pipeline)


@pytest.mark.parametrize("kind", KINDS)
def test_another_kind_of_component(pipeline: Path, kind: str) -> None:
    other = KINDS[KINDS.index(kind) - 1]
    shutil.rmtree(pipeline / kind)
    shutil.copytree(pipeline / other, pipeline / kind)
    with pytest.raises(
        CheckpointError, match=rf"{kind} must hold a component of kind '{kind}', got '{other}'"
    ):
        load(pipeline)


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_component_of_another_training(pipeline: Path, kind: str) -> None:
    path = pipeline / kind / "model.safetensors"
    save_file({name: value + 1 for name, value in load_file(path).items()}, path)
    config = read_json(pipeline / kind / "config.json")
    config["weights_sha256"] = sha256_file(path)
    write_json(pipeline / kind / "config.json", config)
    with pytest.raises(CheckpointError, match=rf"{kind} in .* has sha256 .* model_index.json names"):
        load(pipeline)


@pytest.mark.parametrize("kind", NETWORKS)
def test_weights_of_another_shape(pipeline: Path, kind: str) -> None:
    path = pipeline / kind / "model.safetensors"
    tensors = load_file(path)
    name = max(tensors, key=lambda name: tensors[name].numel())
    save_file({**tensors, name: torch.zeros(3)}, path)
    agree(pipeline / kind)
    with pytest.raises(CheckpointError, match=rf"{kind}.* must fit .*{name.partition('.')[2]} \(3,\) for"):
        load(pipeline)


EDITS: list[tuple[str, Callable[[dict[str, Any]], Any]]] = [
    ("autoencoder", lambda config: config.update(channel=[8])),
    ("autoencoder", lambda config: config.update(channels="many")),
    ("autoencoder", lambda config: config.update(channels=[8, 12])),
    ("autoencoder", lambda config: config.clear()),
    ("denoiser", lambda config: config.pop("schedule")),
    ("denoiser", lambda config: config.update(prediction="w")),
    ("denoiser", lambda config: config["unet"].update(base=24)),
    ("denoiser", lambda config: config["unet"].update(base=None)),
    ("representation", lambda config: config.update(size=[1])),
    ("representation", lambda config: config["encoder"].pop("backbone")),
    ("representation", lambda config: config["encoder"]["backbone"].update(path="os.system")),
    ("statistics", lambda config: config.update(code_size="x")),
    ("statistics", lambda config: config.clear()),
]


@pytest.mark.parametrize("number", range(len(EDITS)))
def test_an_edited_configuration(pipeline: Path, number: int) -> None:
    kind, edit = EDITS[number]
    document = read_json(pipeline / kind / "config.json")
    edit(document["config"])
    write_json(pipeline / kind / "config.json", document)
    with pytest.raises(CheckpointError, match=kind):
        load(pipeline)
    agree_index(pipeline / kind)
    with pytest.raises(CheckpointError, match=kind):
        load(pipeline)


@pytest.mark.parametrize("kind", KINDS)
def test_a_pickle_in_the_place_of_weights(pipeline: Path, kind: str, harm: Path) -> None:
    for content in (pickle.dumps(Harm(harm)), None):
        path = pipeline / kind / "model.safetensors"
        if content is None:
            torch.save({"weight": Harm(harm)}, path)
        else:
            path.write_bytes(content)
        agree(pipeline / kind)
        with pytest.raises(CheckpointError, match=rf"{kind}/model.safetensors must be a safetensors file"):
            load(pipeline)
    assert not harm.exists()


def test_pickles_in_other_places(tiny_run: Path, tmp_path: Path, harm: Path) -> None:
    content = pickle.dumps(Harm(harm))
    head = shutil.copytree(tiny_run / "heads" / "age", tmp_path / "age")
    (head / "head.safetensors").write_bytes(content)
    document = read_json(head / "head.json")
    write_json(head / "head.json", {**document, "arrays_sha256": sha256_file(head / "head.safetensors")})
    with pytest.raises(CheckpointError, match=r"head.safetensors must be a safetensors file"):
        load_head(head)
    table, code = tmp_path / "embeddings.parquet", tmp_path / "code.safetensors"
    for path in (table, code):
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"embeddings.parquet must be a Parquet file"):
        read_embeddings(table)
    with pytest.raises(CheckpointError, match=r"code.safetensors must be a code in safetensors"):
        Code.load(code)
    store = LatentStore(tmp_path, autoencoder="a", spec="b")
    (tmp_path / "key.safetensors").write_bytes(content)
    assert store.missing(["key"]) == ["key"]
    with pytest.raises(CheckpointError, match=r"key.safetensors must be a safetensors file"):
        store.read("key")
    assert not harm.exists()


@pytest.mark.parametrize("content", ["pickle", "objects", "cut", "empty", "shape", "type"])
def test_a_damaged_entry_of_the_cache(tiny_run: Path, tmp_path: Path, harm: Path, content: str) -> None:
    from ldae.data.cache import VolumeCache
    from ldae.data.cohort import read_cohort
    from ldae.data.spec import PreprocessingSpec

    cache = shutil.copytree(tiny_run / "cache", tmp_path / "cache")
    spec = PreprocessingSpec.from_dict(read_json(tiny_run / "autoencoder" / "config.json")["spec"])
    path = read_cohort(tiny_run / "cohort" / "cohort.csv", check="table")["path"].iloc[0]
    volumes = VolumeCache(cache, spec)
    entry = cache / f"{volumes.key(path)}.npy"
    whole = entry.read_bytes()
    if content == "pickle":
        entry.write_bytes(pickle.dumps(Harm(harm)))
    elif content == "objects":
        np.save(entry, np.array([Harm(harm)], dtype=object), allow_pickle=True)
    elif content == "shape":
        np.save(entry, np.zeros((2, 2, 2), dtype=np.float16))
    elif content == "type":
        np.save(entry, np.zeros(spec.size, dtype=np.float32))
    else:
        entry.write_bytes(whole[:-100] if content == "cut" else b"")
    with pytest.raises(CheckpointError, match=rf"{entry} must be a preprocessed volume.*Delete the file"):
        volumes.volume(path)
    assert not harm.exists()
    entry.unlink()
    volumes.prepare([path])
    assert volumes.volume(path).shape == spec.size


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"kind": "head"}', '{"kind": "head", "state": 3}'])
def test_a_damaged_head(tiny_run: Path, tmp_path: Path, text: str) -> None:
    head = shutil.copytree(tiny_run / "heads" / "age", tmp_path / "age")
    (head / "head.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"age/head"):
        load_head(head)


def test_a_head_of_an_unknown_class(tiny_run: Path, tmp_path: Path) -> None:
    head = shutil.copytree(tiny_run / "heads" / "age", tmp_path / "age")
    document = json.loads((head / "head.json").read_text())
    document["state"]["head"] = "os.system"
    write_json(head / "head.json", document)
    with pytest.raises(CheckpointError, match=r"must be of a class .* got 'os.system'"):
        load_head(head)
