# SPDX-License-Identifier: Apache-2.0
"""Codes and latents of the scans that are judged, computed once for all evaluations."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from ldae.data.artefact import atomic_path, sha256_json
from ldae.diffusion.samplers import Solver
from ldae.evaluation.material import SCANS_AT_ONCE, Material, ScanSet

logger = logging.getLogger(__name__)

FOLDER = "codes"
OURS = re.compile(r"[0-9a-f]{16}-[a-z0-9+-]+-\d+")
PARTS = ("latents", "semantic", "stochastic")


@dataclass(frozen=True)
class EncodedScans:
    """Both codes and the latent of some scans, float32, in the order of the rows they were made for.

    Attributes:
        latents: Normalised latents z_0 [N, C, h, w, d].
        semantic: Semantic codes [N, D].
        stochastic: Stochastic codes z_T [N, C, h, w, d].
    """

    latents: Tensor
    semantic: Tensor
    stochastic: Tensor

    def take(self, places: list[int]) -> EncodedScans:
        """Those of the scans in these places."""
        return EncodedScans(self.latents[places], self.semantic[places], self.stochastic[places])


def encode_scans(
    scans: ScanSet, material: Material, *, steps: int = 20, solver: Solver = "ddim-next"
) -> EncodedScans:
    """Codes of every scan of the split; what an earlier or interrupted run has made is read.

    Args:
        scans: The opened material.
        material: Its `out` holds the codes, in a folder named by pipeline, solver and steps.
        steps: Network calls of the walk from latent to noise.
        solver: How the steps are taken.
    """
    folder = _folder(material.out / FOLDER, pipeline=scans.pipeline.sha256, name=f"{solver}-{steps}")
    found = []
    with tqdm(total=len(scans.rows), desc="codes", disable=not material.progress) as bar:
        for rows in batches(scans.rows, size=SCANS_AT_ONCE):
            path = folder / f"{sha256_json(list(rows['key']))[:32]}.safetensors"
            tensors = _read(path)
            if tensors is None:
                tensors = _encode(scans, rows, steps=steps, solver=solver)
                with atomic_path(path) as temporary:
                    save_file(tensors, temporary)
            found.append(tensors)
            bar.update(len(rows))
    return EncodedScans(*(torch.cat([tensors[part] for tensors in found]) for part in PARTS))


def batches(rows: pd.DataFrame, *, size: int) -> Iterator[pd.DataFrame]:
    """Rows, so many at a time."""
    for start in range(0, len(rows), size):
        yield rows.iloc[start : start + size]


def _folder(root: Path, *, pipeline: str, name: str) -> Path:
    """Where the codes of this pipeline go; those of an earlier one are of no use any more."""
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


def _encode(scans: ScanSet, rows: pd.DataFrame, *, steps: int, solver: Solver) -> dict[str, Tensor]:
    networks = scans.pipeline.networks
    parts = []
    for some in batches(rows, size=networks.volume_batch):
        volumes = scans.volumes(some)
        parts.append((networks.compress(volumes), networks.describe(volumes)))
    latents, semantic = (torch.cat(values) for values in zip(*parts, strict=True))
    stochastic = networks.to_noise(latents, semantic, steps=steps, solver=solver, batch_size=SCANS_AT_ONCE)
    return {"latents": latents, "semantic": semantic, "stochastic": stochastic}
