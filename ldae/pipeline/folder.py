# SPDX-License-Identifier: Apache-2.0
"""The saved form of a pipeline: a folder a component and model_index.json, which is written last."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldae import __version__
from ldae.data.artefact import (
    CONFIG_NAME,
    WEIGHTS_NAME,
    Component,
    atomic_path,
    component_sha256,
    pipeline_sha256,
    read_json,
    sha256_file,
    sha256_json,
    whole,
    write_json,
)
from ldae.errors import CheckpointError

INDEX_NAME = "model_index.json"
CLASS_NAME = "LDAEPipeline"
MADE_BY = {
    "autoencoder": "ldae fit --config aekl.yaml",
    "denoiser": "ldae fit --config ldae_pretrain.yaml",
    "representation": "ldae fit --config ldae_repr_learn.yaml",
    "statistics": "ldae assemble",
    "code_sampler": "ldae fit --config code_sampler.yaml",
}
OPTIONAL = ("code_sampler",)
REQUIRED = MADE_BY.keys() - OPTIONAL


@dataclass(frozen=True)
class PipelineIndex:
    """What model_index.json says.

    Attributes:
        components: sha256 of each component, by kind, which is also the name of its folder.
        spec: Preprocessing spec of all components.
        split: Hash of the subject split of all components.
    """

    components: dict[str, str]
    spec: dict[str, Any]
    split: str

    @property
    def sha256(self) -> str:
        """Hash of what decides the codes: the networks, their statistics of latents, and the spec."""
        return pipeline_sha256(self.components)


def read_index(folder: str | Path) -> PipelineIndex:
    """Read model_index.json.

    Raises:
        FileNotFoundError: The folder holds none.
        CheckpointError: It is the index of something else.
    """
    path = Path(folder) / INDEX_NAME
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: a pipeline must be a folder that stage 3 or `ldae assemble` wrote."
        )
    document = read_json(path)
    found = document.get("_class_name") if isinstance(document, dict) else None
    if found != CLASS_NAME:
        raise CheckpointError(f"{path} must be the index of a {CLASS_NAME}, got {found!r}.")
    with whole(path):
        components = {kind: str(entry["sha256"]) for kind, entry in document["components"].items()}
        index = PipelineIndex(components, spec=dict(document["spec"]), split=str(document["split"]))
    missing = sorted(REQUIRED - components.keys())
    if missing:
        raise CheckpointError(f"{path} must name the components {sorted(REQUIRED)}, but misses {missing}.")
    return index


def write_index(folder: Path, index: PipelineIndex) -> None:
    """Write model_index.json."""
    document = {
        "_class_name": CLASS_NAME,
        "ldae_version": __version__,
        "sha256": index.sha256,
        "spec": index.spec,
        "split": index.split,
        "components": {
            kind: {"kind": kind, "folder": kind, "sha256": sha256}
            for kind, sha256 in index.components.items()
        },
    }
    write_json(folder / INDEX_NAME, document)


def component_folder(parent: str | Path, kind: str) -> Path:
    """The folder of a component.

    Raises:
        FileNotFoundError: It is missing or incomplete; the message says what makes it.
    """
    folder = Path(parent) / kind
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder / name} is missing: the {kind} must be made first. Run: {MADE_BY[kind]}"
            )
    return folder


def check_component(component: Component, *, index: PipelineIndex, folder: Path) -> None:
    """Stop when a component is not the one that the index names, or was made from others.

    Raises:
        CheckpointError: With both hashes.
    """
    _same(component.sha256, index.components[component.kind], what=component.kind, folder=folder)
    for parent, sha256 in component.parents.items():
        if parent in index.components and sha256 != index.components[parent]:
            raise CheckpointError(
                f"{component.kind} in {folder} was made from {parent} {sha256[:12]}, but {parent} beside it "
                f"is {index.components[parent][:12]}. Train it again, or bring the {parent} back."
            )
    if component.spec != index.spec:
        raise CheckpointError(
            f"{component.kind} in {folder} was trained on scans of spec {component.spec}, but the pipeline "
            f"has spec {index.spec}. Use one spec for all stages."
        )
    if component.split != index.split:
        raise CheckpointError(
            f"{component.kind} in {folder} was trained on split {str(component.split)[:12]}, but the "
            f"pipeline has split {index.split[:12]}. Use one split for all stages."
        )


def check_sha256(folder: Path, *, kind: str, index: PipelineIndex) -> None:
    """Stop when a component's configuration is not the one that the index names.

    Raises:
        CheckpointError: With both hashes, or that it is another kind of component.
    """
    document = read_json(folder / CONFIG_NAME)
    found = document.get("kind") if isinstance(document, dict) else None
    if found != kind:
        raise CheckpointError(f"{folder} must hold a component of kind {kind!r}, got {found!r}.")
    _same(sha256_json(document), index.components[kind], what=kind, folder=folder.parent)


def _same(found: str, wanted: str, *, what: str, folder: Path) -> None:
    if found != wanted:
        raise CheckpointError(
            f"{what} in {folder} has sha256 {found[:12]}, but {INDEX_NAME} names {wanted[:12]}. Copy the "
            "folder whole, or run again: ldae assemble"
        )


def intact_sha256(folder: Path) -> str | None:
    """The sha256 of a component folder whose weights are those that its configuration names, else None."""
    if not all((folder / name).is_file() for name in (CONFIG_NAME, WEIGHTS_NAME)):
        return None
    try:
        with whole(folder / CONFIG_NAME):
            weights = read_json(folder / CONFIG_NAME)["weights_sha256"]
    except CheckpointError:
        return None
    return component_sha256(folder) if weights == sha256_file(folder / WEIGHTS_NAME) else None


def copy_component(source: Path, target: Path) -> None:
    """Bring a component to another folder, the configuration last; nothing is done if it is there already.

    It is a true copy: a hard link would pass damage on from one folder to the other.
    """
    if intact_sha256(target) == component_sha256(source):
        return
    for name in (WEIGHTS_NAME, CONFIG_NAME):
        with atomic_path(target / name) as temporary:
            shutil.copyfile(source / name, temporary)
