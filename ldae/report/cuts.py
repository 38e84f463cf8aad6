# SPDX-License-Identifier: Apache-2.0
"""Cuts through volumes, and the colours that they are shown in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Volume = NDArray[np.floating]
Box = tuple[tuple[int, int], ...]
Kind = Literal["image", "difference", "spread", "attribution"]

PLANES = ("axial", "coronal", "sagittal")
COLOURS: dict[Kind, str] = {
    "image": "gray",
    "difference": "RdBu_r",
    "spread": "magma",
    "attribution": "PuOr_r",
}
BRAIN = 0.08  # of the intensity range: what counts as head when pictures are cropped
MARGIN = 2
SMALLEST_LIMIT = 0.02


@dataclass(frozen=True)
class Panel:
    """A volume and how it is shown.

    Attributes:
        title: What stands above it.
        volume: [X, Y, Z] in RAS.
        kind: "image" in [0, 1], "difference" around 0, "spread" from 0, or "attribution" in [-1, 1].
    """

    title: str
    volume: Volume
    kind: Kind = "image"


def head_box(volume: Volume) -> Box:
    """First and last voxel of the head along each axis, with a margin."""
    inside = np.argwhere(volume > BRAIN)
    if not len(inside):
        return tuple((0, side) for side in volume.shape)
    lows, highs = inside.min(axis=0) - MARGIN, inside.max(axis=0) + MARGIN + 1
    return tuple(
        (max(0, int(low)), min(side, int(high)))
        for low, high, side in zip(lows, highs, volume.shape, strict=True)
    )


def cut(volume: Volume, *, plane: str, box: Box) -> Volume:
    """The middle slice of a box of a RAS volume, rows upwards: [height, width]."""
    (x0, x1), (y0, y1), (z0, z1) = box
    inner = volume[x0:x1, y0:y1, z0:z1]
    x, y, z = (side // 2 for side in inner.shape)
    # Off the midline by one voxel, where a ventricle lies rather than the wall between the two.
    beside = min(x + max(1, round(0.06 * inner.shape[0])), inner.shape[0] - 1)
    slices = {"axial": inner[:, :, z], "coronal": inner[:, y, :], "sagittal": inner[beside, :, :]}
    return np.asarray(slices[plane].T)


def extent(*, plane: str, box: Box, spacing: Sequence[float]) -> tuple[float, float]:
    """Width and height of a cut in mm."""
    x, y, z = ((high - low) * edge for (low, high), edge in zip(box, spacing, strict=True))
    return {"axial": (x, y), "coronal": (x, z), "sagittal": (y, z)}[plane]


def colour_limit(volumes: Sequence[Volume]) -> float:
    """Symmetric limit of the colour scale: nearly all voxels lie within, and it is a round number."""
    if not volumes:
        return 1.0
    largest = max(float(np.percentile(np.abs(volume), 99.5)) for volume in volumes)
    return max(round(largest, 2), SMALLEST_LIMIT)


def colour_range(kind: Kind, *, limit: float) -> tuple[float, float]:
    """The values at both ends of the colour scale."""
    ends: dict[Kind, tuple[float, float]] = {
        "image": (0.0, 1.0),
        "difference": (-limit, limit),
        "spread": (0.0, limit),
        "attribution": (-1.0, 1.0),
    }
    return ends[kind]
