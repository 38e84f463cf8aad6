# SPDX-License-Identifier: Apache-2.0
"""Codes and latents of the scans that are judged, computed once for all evaluations."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ldae.data.artefact import atomic_path, sha256_json
from ldae.diffusion.samplers import DEFAULT_SOLVER, Solver
from ldae.errors import CheckpointError
from ldae.evaluation.material import SCANS_AT_ONCE, Material, ScanSet
from ldae.evaluation.workers import side_by_side

logger = logging.getLogger(__name__)

OURS = re.compile(r"[0-9a-f]{16}-[a-z0-9+-]+")


@dataclass(frozen=True)
class EncodedScans:
    """Both codes and the latent of some scans, float32.

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


@dataclass(frozen=True)
class StoredTensors:
    """Tensors of all scans of a split, which stay in their files but for those that are asked for.

    Attributes:
        paths: Files of `SCANS_AT_ONCE` scans each, in the order of the rows they were made for.
    """

    paths: Sequence[Path]

    def take(self, places: Sequence[int], *, name: str) -> Tensor:
        """The tensor of this name [N, ...] of the scans in these places, at least one.

        Raises:
            CheckpointError: A file has been damaged or removed meanwhile.
        """
        found = [divmod(place, SCANS_AT_ONCE) for place in places]
        files = {number: self._load(self.paths[number], name=name) for number in {file for file, _ in found}}
        return torch.stack([files[number][row] for number, row in found])

    @staticmethod
    def _load(path: Path, *, name: str) -> Tensor:
        try:
            with safe_open(path, framework="pt") as stream:
                tensor: Tensor = stream.get_tensor(name)
        except (SafetensorError, FileNotFoundError) as error:
            raise CheckpointError(
                f"{path} must hold the codes that this evaluation has stored, but they are damaged, or "
                f"another evaluation in the same run has removed them: {error}. Give the same command again."
            ) from error
        return tensor


@dataclass(frozen=True)
class CompressedScans:
    """Latents and semantic codes of all scans of a split, in the order of its rows.

    Attributes:
        stored: Files with normalised "latents" z_0 [N, C, h, w, d].
        semantic: Semantic codes [N, D], float32.
    """

    stored: StoredTensors
    semantic: Tensor

    def latents(self, places: Sequence[int]) -> Tensor:
        """Normalised latents of the scans in these places."""
        return self.stored.take(places, name="latents")


@dataclass(frozen=True)
class StoredScans:
    """Both codes and the latents of all scans of a split, in the order of its rows.

    Attributes:
        compressed: Latents and semantic codes.
        walks: Files with "stochastic" and, of solver "exact", "previous".
        exact: Whether the solver is that one.
    """

    compressed: CompressedScans
    walks: StoredTensors
    exact: bool

    def __len__(self) -> int:
        return len(self.compressed.semantic)

    def take(self, places: Sequence[int]) -> EncodedScans:
        """Those of the scans in these places, at least one."""
        return EncodedScans(
            self.compressed.latents(places),
            self.compressed.semantic[list(places)],
            self.walks.take(places, name="stochastic"),
            self.walks.take(places, name="previous") if self.exact else None,
        )

    def noise(self) -> Iterator[Tensor]:
        """The stochastic codes of all, some at a time."""
        for start in range(0, len(self), SCANS_AT_ONCE):
            yield self.walks.take(range(start, min(start + SCANS_AT_ONCE, len(self))), name="stochastic")


def compress_scans(scans: ScanSet, material: Material) -> CompressedScans:
    """Latents and semantic codes of every scan of the split.

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

    return CompressedScans(*_stored(scans, material, name="latents", compute=compute, keep="semantic"))


def encode_scans(
    scans: ScanSet, material: Material, *, steps: int = 20, solver: Solver = DEFAULT_SOLVER
) -> StoredScans:
    """Codes of every scan of the split; what an earlier or interrupted run has made is read.

    Args:
        scans: The opened material.
        material: Its run folder holds the codes.
        steps: Network calls of the walk from latent to noise.
        solver: How the steps are taken.
    """
    compressed = compress_scans(scans, material)

    def compute(rows: pd.DataFrame) -> dict[str, Tensor]:
        places = list(rows.index)
        noise, previous = scans.pipeline.networks.to_noise(
            compressed.latents(places),
            compressed.semantic[places],
            steps=steps,
            solver=solver,
            batch_size=SCANS_AT_ONCE,
        )
        return {"stochastic": noise} if previous is None else {"stochastic": noise, "previous": previous}

    walks, _ = _stored(scans, material, name=f"{solver}-{steps}", compute=compute)
    return StoredScans(compressed, walks, exact=solver == "exact")


def batches(rows: pd.DataFrame, *, size: int = SCANS_AT_ONCE) -> list[pd.DataFrame]:
    """Rows, so many at a time."""
    return [rows.iloc[start : start + size] for start in range(0, len(rows), size)]


def _stored(
    scans: ScanSet,
    material: Material,
    *,
    name: str,
    compute: Callable[[pd.DataFrame], Mapping[str, Tensor]],
    keep: str | None = None,
) -> tuple[StoredTensors, Tensor]:
    """Tensors of all scans of the split, each batch in its file or else computed and stored; one is kept."""
    folder = pipeline_folder(material.shared, pipeline=scans.pipeline.sha256, name=name)

    def store(rows: pd.DataFrame) -> tuple[Path, Tensor]:
        path = folder / f"{sha256_json(list(rows['key']))[:32]}.safetensors"
        tensors = _read(path)
        if tensors is None:
            tensors = {key: value.contiguous() for key, value in compute(rows).items()}
            with atomic_path(path) as temporary:
                save_file(tensors, temporary)
        return path, tensors[keep] if keep else torch.empty(0)

    found = side_by_side(
        store, batches(scans.rows), networks=scans.pipeline.networks, name=name, progress=material.progress
    )
    paths, kept = zip(*found, strict=True)
    return StoredTensors(paths), torch.cat(kept)


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
