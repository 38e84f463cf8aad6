# SPDX-License-Identifier: Apache-2.0
"""Codes and latents of the scans that are judged, computed once for all evaluations."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ldae.data.artefact import atomic_path, sha256_json
from ldae.diffusion.samplers import DEFAULT_SOLVER, Solver
from ldae.evaluation.material import SCANS_AT_ONCE, Material, ScanSet
from ldae.evaluation.workers import side_by_side

logger = logging.getLogger(__name__)

OURS = re.compile(r"[0-9a-f]{16}-[a-z0-9+-]+")


@dataclass(frozen=True)
class EncodedScans:
    """Both codes and the latent of some scans, float32, in the order of the rows they were made for.

    Attributes:
        latents: Normalised latents z_0 [N, C, h, w, d].
        semantic: Semantic codes [N, D].
        stochastic: Stochastic codes z_T [N, C, h, w, d].
        previous: What solver "exact" needs besides, of the same shape; None for the other solvers.
    """

    latents: Tensor
    semantic: Tensor
    stochastic: Tensor
    previous: Tensor | None = None

    def take(self, places: list[int]) -> EncodedScans:
        """Those of the scans in these places."""
        previous = None if self.previous is None else self.previous[places]
        return EncodedScans(self.latents[places], self.semantic[places], self.stochastic[places], previous)


def compress_scans(scans: ScanSet, material: Material) -> tuple[Tensor, Tensor]:
    """Latents [N, C, h, w, d] and semantic codes [N, D] of every scan of the split.

    What an earlier or interrupted run has made is read.
    """
    networks = scans.pipeline.networks

    def compute(rows: pd.DataFrame) -> dict[str, Tensor]:
        parts = []
        for some in batches(rows, size=networks.volume_batch):
            volumes = scans.volumes(some)
            parts.append((networks.compress(volumes), networks.describe(volumes)))
        latents, semantic = (torch.cat(values) for values in zip(*parts, strict=True))
        return {"latents": latents, "semantic": semantic}

    found = _stored(scans, material, name="latents", compute=compute)
    return found["latents"], found["semantic"]


def encode_scans(
    scans: ScanSet, material: Material, *, steps: int = 20, solver: Solver = DEFAULT_SOLVER
) -> EncodedScans:
    """Codes of every scan of the split; what an earlier or interrupted run has made is read.

    Args:
        scans: The opened material.
        material: Its run folder holds the codes.
        steps: Network calls of the walk from latent to noise.
        solver: How the steps are taken.
    """
    latents, semantic = compress_scans(scans, material)

    def compute(rows: pd.DataFrame) -> dict[str, Tensor]:
        places = list(rows.index)
        noise, previous = scans.pipeline.networks.to_noise(
            latents[places], semantic[places], steps=steps, solver=solver, batch_size=SCANS_AT_ONCE
        )
        return {"stochastic": noise} if previous is None else {"stochastic": noise, "previous": previous}

    found = _stored(scans, material, name=f"{solver}-{steps}", compute=compute)
    return EncodedScans(latents, semantic, found["stochastic"], found.get("previous"))


def batches(rows: pd.DataFrame, *, size: int = SCANS_AT_ONCE) -> list[pd.DataFrame]:
    """Rows, so many at a time."""
    return [rows.iloc[start : start + size] for start in range(0, len(rows), size)]


def _stored(
    scans: ScanSet,
    material: Material,
    *,
    name: str,
    compute: Callable[[pd.DataFrame], Mapping[str, Tensor]],
) -> dict[str, Tensor]:
    """Tensors of all scans of the split, batch by batch from their files or else computed and stored."""
    folder = pipeline_folder(material.shared, pipeline=scans.pipeline.sha256, name=name)

    def load(rows: pd.DataFrame) -> dict[str, Tensor]:
        path = folder / f"{sha256_json(list(rows['key']))[:32]}.safetensors"
        tensors = _read(path)
        if tensors is None:
            tensors = {key: value.contiguous() for key, value in compute(rows).items()}
            with atomic_path(path) as temporary:
                save_file(tensors, temporary)
        return tensors

    found = side_by_side(
        load, batches(scans.rows), networks=scans.pipeline.networks, name=name, progress=material.progress
    )
    return {key: torch.cat([tensors[key] for tensors in found]) for key in found[0]}


def pipeline_folder(root: Path, *, pipeline: str, name: str) -> Path:
    """Where what this pipeline made goes; what an earlier one made is of no use any more and removed.

    Args:
        root: Folder of several such folders.
        pipeline: Hash of the pipeline.
        name: What it is, in lower-case letters, digits, plus and minus.
    """
    mark = pipeline[:16]
    for old in root.glob("*"):
        if OURS.fullmatch(old.name) and not old.name.startswith(mark):
            shutil.rmtree(old)
    return root / f"{mark}-{name}"


def _read(path: Path) -> dict[str, Tensor] | None:
    if not path.is_file():
        return None
    try:
        return load_file(path)
    except SafetensorError:
        logger.warning("%s is damaged and made anew", path)
        return None
