# SPDX-License-Identifier: Apache-2.0
"""Random changes of preprocessed training scans, by MONAI's transforms."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import radians
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ldae.errors import InputError


@dataclass(frozen=True)
class AugmentationConfig:
    """How far training scans are changed, each evenly between nothing and this; 0 leaves it out.

    Attributes:
        flip: Share of scans whose left and right are exchanged, 0..1.
        rotation: Degrees about each axis, either way.
        scaling: Part of the size, either way, below 1.
        shift: mm along each axis, either way.
        contrast: Exponent of the intensities, from 1 / (1 + contrast) to 1 + contrast.
        noise: Standard deviation of Gaussian noise, of intensities in [0, 1].
    """

    flip: float = 0.0
    rotation: float = 0.0
    scaling: float = 0.0
    shift: float = 0.0
    contrast: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        """Stop on what cannot be drawn."""
        for name, value in asdict(self).items():
            most = {"flip": 1.0, "scaling": 0.99, "rotation": 180.0}.get(name, float("inf"))
            if not 0 <= value <= most:
                raise InputError(f"augmentation.{name} must be from 0 to {most:g}, got {value}.")


class Drawn(NamedTuple):
    """A scan's place in its split, in an epoch."""

    epoch: int
    place: int


class Augmentation:
    """Changes volumes [1, X, Y, Z] in [0, 1] on the preprocessed grid, which stays as it is.

    What is drawn depends on the seed, the epoch and the scan alone: loader processes, processes that train
    together and a training that goes on all draw the same.

    Args:
        config: How far.
        spacing: Voxel size, mm.
        seed: Seed of every draw.
    """

    def __init__(self, config: AugmentationConfig, *, spacing: tuple[float, float, float], seed: int) -> None:
        # monai takes five seconds to import
        from monai.transforms.compose import Compose
        from monai.transforms.intensity.array import RandAdjustContrast, RandGaussianNoise
        from monai.transforms.spatial.array import RandAffine, RandFlip

        self.seed = seed
        turn = radians(config.rotation)
        self.transform = Compose(
            [
                RandFlip(prob=config.flip, spatial_axis=0),
                RandAffine(
                    prob=float(max(config.rotation, config.scaling, config.shift) > 0),
                    rotate_range=[(-turn, turn)] * 3,
                    scale_range=[(-config.scaling, config.scaling)] * 3,
                    translate_range=[(-config.shift / side, config.shift / side) for side in spacing],
                    padding_mode="zeros",
                ),
                RandAdjustContrast(
                    prob=float(config.contrast > 0), gamma=(1 / (1 + config.contrast), 1 + config.contrast)
                ),
                RandGaussianNoise(prob=float(config.noise > 0), std=config.noise),
            ]
        )

    def __call__(self, volume: Tensor, drawn: Drawn) -> Tensor:
        """A changed copy of the volume."""
        state = np.random.SeedSequence([self.seed, *drawn]).generate_state(1)
        self.transform.set_random_state(seed=int(state[0]))
        return torch.as_tensor(np.asarray(self.transform(volume.clone()))).clamp(0, 1)


class AugmentedDataset(Dataset[dict[str, Tensor]]):
    """Scans with a "volume", which is changed as the epoch has it; asked for by what was `Drawn`."""

    def __init__(self, scans: Dataset[dict[str, Tensor]], augmentation: Augmentation) -> None:
        self.scans, self.augmentation = scans, augmentation

    def __len__(self) -> int:
        return len(self.scans)  # type: ignore[arg-type]

    def __getitem__(self, drawn: Drawn) -> dict[str, Tensor]:
        scan = self.scans[drawn.place]
        return {**scan, "volume": self.augmentation(scan["volume"], drawn)}
