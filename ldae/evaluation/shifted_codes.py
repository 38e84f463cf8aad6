# SPDX-License-Identifier: Apache-2.0
"""Codes of scans that were corrupted, replaced or attacked before they were encoded, each set a file."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ldae.data.artefact import atomic_path, sha256_json
from ldae.evaluation.attacks import ATTACKS, Victim
from ldae.evaluation.codes import batches
from ldae.evaluation.corruptions import CORRUPTIONS, Corruption, scan_generator
from ldae.evaluation.head_choice import Classifier
from ldae.evaluation.material import ScanSet
from ldae.evaluation.outside import OUTSIDE, REPLACED
from ldae.evaluation.workers import side_by_side

logger = logging.getLogger(__name__)

CODES = "codes"
BY_NAME = {corruption.name: corruption for corruption in CORRUPTIONS}


@dataclass(frozen=True)
class ShiftedCodes:
    """Codes of the scans of some parts, under whatever shift; made once and read after.

    Attributes:
        scans: The pipeline and its scans.
        parts: Rows of the scans of each part, such as "val" and "test".
        folder: Where the files lie.
        classes: The classes, in the order in which heads number them.
        target: The column that holds them.
        steps: Gradients of each attack that takes a number of them.
        progress: Show bars.
    """

    scans: ScanSet
    parts: Mapping[str, pd.DataFrame]
    folder: Path
    classes: tuple[str, ...]
    target: str
    steps: Mapping[str, int] = field(default_factory=dict)
    progress: bool = False

    def widths(self) -> tuple[int, ...]:
        """Widths of the encoder's depths and, last, of the semantic code, as they lie side by side."""
        networks = self.scans.pipeline.networks
        code, *depths = networks.describe_depths(torch.zeros(1, 1, *networks.encoder.size))
        return (*(depth.shape[1] for depth in depths), code.shape[1])

    def clean(self, part: str) -> NDArray[np.float64]:
        """Of the scans as they are [N, F]."""
        return self._encoded(part, "clean", lambda rows, volumes: volumes)

    def corrupted(self, part: str, name: str, *, grade: float, seed: int) -> NDArray[np.float64]:
        """Of the scans corrupted [N, F]; a corruption that draws nothing is the same under every seed."""
        corruption = BY_NAME[name]
        seed = seed if corruption.drawn else 0

        def change(rows: pd.DataFrame, volumes: Tensor) -> Tensor:
            return corrupt(volumes, rows, corruption=corruption, grade=grade, seed=seed)

        return self._encoded(part, f"{name}-{grade:g}-{seed}", change)

    def outside(self, part: str, name: str, *, seed: int) -> NDArray[np.float64]:
        """Of scans that the heads were not made for [M, F]."""
        if name not in REPLACED:
            return self._encoded(name, "clean", lambda rows, volumes: volumes)

        def change(rows: pd.DataFrame, volumes: Tensor) -> Tensor:
            names = zip(rows["subject"], rows["session"], strict=True)
            changed = [
                OUTSIDE[name](volume, scan_generator(seed, name, *scan))
                for volume, scan in zip(volumes, names, strict=True)
            ]
            return torch.stack(changed)

        return self._encoded(part, f"{name}-{seed}", change)

    def attacked(
        self, part: str, attack: str, *, eps: float, seed: int, against: str, head: Callable[[], Classifier]
    ) -> NDArray[np.float64]:
        """Of scans changed by at most eps a voxel so that a head errs [N, F].

        Args:
            part: Whose scans.
            attack: One of `ATTACKS`.
            eps: Largest change.
            seed: Seed of random starts and of what a head draws.
            against: Name of the head.
            head: Gives it, fitted; called only where the file is not there yet.
        """

        name = f"{attack}-{eps:.5f}-{against}-{seed}"
        if not self._path(part, name).is_file():
            head()  # before batches, which run side by side, ask for it

        def change(rows: pd.DataFrame, volumes: Tensor) -> Tensor:
            labels = torch.tensor([self.classes.index(name) for name in rows[self.target]])
            victim = self.victim(head(), seed=seed)
            seeds = [100_003 * seed + place for place in rows.index]
            limits = {"steps": self.steps[attack]} if attack in self.steps else {}
            device = self.scans.pipeline.networks.device
            given = volumes.to(device)
            with _plain_convolutions():
                return ATTACKS[attack](victim, given, labels=labels, eps=eps, seeds=seeds, **limits).cpu()

        return self._encoded(part, name, change)

    def victim(self, head: Classifier, *, seed: int) -> Victim:
        """Encoder and head as one differentiable function of scans.

        Raises:
            AttributeError: The head has no differentiable form.
        """
        encoder = self.scans.pipeline.networks.encoder
        generator = torch.Generator().manual_seed(seed)
        alone = head.n_features_in_ == encoder.config.code_size  # type: ignore[attr-defined]

        def said(volumes: Tensor) -> Tensor:
            if alone:
                codes = encoder(volumes)
            else:
                code, depths = encoder.describe_depths(volumes)
                codes = torch.cat([*depths, code], 1)
            chances: Tensor = head.differentiable_proba(  # type: ignore[attr-defined]
                codes.cpu().double(), generator=generator
            )
            return chances

        return said

    def _encoded(
        self, part: str, name: str, change: Callable[[pd.DataFrame, Tensor], Tensor]
    ) -> NDArray[np.float64]:
        path = self._path(part, name)
        found = _read(path)
        if found is None:
            found = self._encode(self.parts[part], change, name=name)
            with atomic_path(path) as temporary:
                save_file({CODES: found}, temporary)
        return found.double().numpy()

    def _path(self, part: str, name: str) -> Path:
        mark = sha256_json(list(self.parts[part]["key"]))[:12]
        return self.folder / CODES / f"{mark}-{name}.safetensors"

    def _encode(
        self, rows: pd.DataFrame, change: Callable[[pd.DataFrame, Tensor], Tensor], *, name: str
    ) -> Tensor:
        networks = self.scans.pipeline.networks

        def work(some: pd.DataFrame) -> Tensor:
            code, *depths = networks.describe_depths(change(some, self.scans.volumes(some)))
            return torch.cat([*depths, code], 1)

        made = side_by_side(
            work,
            batches(rows, size=networks.volume_batch),
            networks=networks,
            name=name,
            progress=self.progress,
        )
        return torch.cat(made).contiguous()


def corrupt(
    volumes: Tensor, rows: pd.DataFrame, *, corruption: Corruption, grade: float, seed: int
) -> Tensor:
    """Scans [N, 1, X, Y, Z] corrupted, each by what its own names and the seed draw, whatever the grade."""
    names = zip(rows["subject"], rows["session"], strict=True)
    return torch.stack(
        [
            corruption(volume, grade=grade, generator=scan_generator(seed, corruption.name, *scan))
            for volume, scan in zip(volumes, names, strict=True)
        ]
    )


@contextmanager
def _plain_convolutions() -> Iterator[None]:
    """Convolutions as one matrix product: oneDNN has no fast gradient by the input of one with stride and one
    channel (12 times slower for the demo's patches, both ways together), and NNPACK takes twice as long.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "TF32 acceleration")  # told wherever these flags are touched
        with torch.backends.mkldnn.flags(enabled=False), torch.backends.nnpack.flags(enabled=False):
            yield


def _read(path: Path) -> Tensor | None:
    if not path.is_file():
        return None
    try:
        return load_file(path)[CODES]
    except (SafetensorError, KeyError):
        logger.warning("%s is damaged and made anew", path)
        return None
