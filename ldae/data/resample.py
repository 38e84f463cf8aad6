# SPDX-License-Identifier: Apache-2.0
"""Grids and resampling: from a scan's own voxels to a grid of given spacing and size, and back.

Both grids share the directions of their axes, so that a resampling is one scale and one shift per axis,
and needs no rotation: oblique scans stay oblique.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from nibabel import orientations
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[np.float32]
RAS = np.array([[0, 1], [1, 1], [2, 1]])
# Spacings nearer than this (mm) are the same: affines are stored as float32.
SAME_SPACING = 1e-4


@dataclass(frozen=True)
class Grid:
    """A voxel grid in space: shape and affine (voxel indices to RAS+ millimetres)."""

    shape: tuple[int, ...]
    affine: NDArray[np.float64]

    @property
    def spacing(self) -> NDArray[np.float64]:
        """Edge lengths of a voxel in mm."""
        return np.asarray(np.linalg.norm(self.affine[:3, :3], axis=0))


@dataclass(frozen=True)
class AxisMap:
    """Where the voxels of one grid lie on another: index' = step * index + start, along each axis."""

    step: NDArray[np.float64]
    start: NDArray[np.float64]

    @property
    def inverse(self) -> AxisMap:
        """The map in the other direction."""
        return AxisMap(1 / self.step, -self.start / self.step)

    @property
    def whole(self) -> bool:
        """Whether voxels fall on voxels, so that nothing has to be interpolated."""
        return bool((self.step == 1).all() and (self.start == np.rint(self.start)).all())


def orientation(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """How the axes of a file must be permuted and flipped to point right, anterior and superior."""
    return _orientation(affine.tobytes())


# Found by a singular value decomposition, which costs more than reading a small scan, several times a scan.
@lru_cache(maxsize=16)
def _orientation(affine: bytes) -> NDArray[np.float64]:
    return np.asarray(orientations.io_orientation(np.frombuffer(affine).reshape(4, 4)))


def axis_codes(affine: NDArray[np.float64]) -> str:
    """Orientation in letters, such as "LPS"."""
    return "".join(orientations.ornt2axcodes(orientation(affine)))


def to_ras(grid: Grid) -> Grid:
    """The same grid with its axes permuted and flipped to RAS."""
    transform = orientation(grid.affine)
    order = np.argsort(transform[:, 0])
    affine = grid.affine @ orientations.inv_ornt_aff(transform, grid.shape)
    return Grid(tuple(grid.shape[axis] for axis in order), affine)


def voxels_to_ras(voxels: Array, affine: NDArray[np.float64]) -> Array:
    """Permute and flip voxels on a file's axes to RAS."""
    return np.asarray(orientations.apply_orientation(voxels, orientation(affine)))


def voxels_from_ras(voxels: Array, affine: NDArray[np.float64]) -> Array:
    """Inverse of `voxels_to_ras`, for a file with that affine."""
    return np.asarray(
        orientations.apply_orientation(voxels, orientations.ornt_transform(RAS, orientation(affine)))
    )


def fit_grid(source: Grid, *, spacing: tuple[float, ...], size: tuple[int, ...]) -> tuple[Grid, AxisMap]:
    """A grid of the wanted spacing and size about the centre of a RAS grid, and where its voxels lie on it.

    Along an axis whose spacing is right already the grid falls on the source's voxels: centred to within
    half a voxel, and nothing is interpolated along it.

    Returns:
        The grid, and the map from its indices to the source's.
    """
    wanted, shape = np.asarray(spacing, dtype=np.float64), np.asarray(size)
    same = np.abs(source.spacing - wanted) < SAME_SPACING
    step = np.where(same, 1.0, wanted / source.spacing)
    start = (np.asarray(source.shape) - 1) / 2 - step * (shape - 1) / 2
    start = np.where(same, np.floor(start), start)
    affine = source.affine.copy()
    affine[:3, :3] = source.affine[:3, :3] * step
    affine[:3, 3] = source.affine[:3, :3] @ start + source.affine[:3, 3]
    return Grid(tuple(size), affine), AxisMap(step, start)


def resample(voxels: Array, where: AxisMap, *, shape: tuple[int, ...], outside: float) -> Array:
    """Values at the voxels of a grid, by whole-voxel crop and pad, or linear interpolation.

    Where the grid is coarser the image is first blurred by the Gaussian that turns the point spread of the
    fine voxel into that of the coarse one (Cardoso et al., MICCAI 2015), so that nothing aliases.

    Args:
        voxels: [X, Y, Z].
        where: From indices of the wanted grid to indices of `voxels`.
        shape: Of the wanted grid.
        outside: Value beyond the field of view.

    Returns:
        float32 of the wanted shape.
    """
    if where.whole:
        return _crop_and_pad(voxels, np.rint(where.start).astype(int), shape=shape, outside=outside)
    sigma = np.sqrt(np.maximum(where.step**2 - 1, 0)) / np.sqrt(8 * np.log(2))
    if sigma.any():
        voxels = ndimage.gaussian_filter(voxels, sigma, mode="nearest", truncate=3)
    result: Any = ndimage.affine_transform(
        voxels,
        where.step,
        offset=where.start,
        output_shape=shape,
        output=np.float32,
        order=1,
        mode="grid-constant",
        cval=outside,
    )
    return np.asarray(result, dtype=np.float32)


def inside(where: AxisMap, *, source: tuple[int, ...], shape: tuple[int, ...]) -> tuple[slice, ...]:
    """Source voxels within a grid, one slice an axis; a grid ends half a voxel past its centres."""
    low = where.start - where.step / 2
    high = where.start + where.step * (np.asarray(shape) - 0.5)
    return tuple(
        slice(max(0, int(np.ceil(first - 1e-6))), min(length, int(np.floor(last + 1e-6)) + 1))
        for first, last, length in zip(low, high, source, strict=True)
    )


def _crop_and_pad(voxels: Array, start: NDArray[np.int_], *, shape: tuple[int, ...], outside: float) -> Array:
    result = np.full(shape, outside, dtype=np.float32)
    taken = tuple(
        slice(max(0, first), max(0, min(length, first + size)))
        for first, length, size in zip(start.tolist(), voxels.shape, shape, strict=True)
    )
    placed = tuple(
        slice(part.start - first, part.stop - first)
        for part, first in zip(taken, start.tolist(), strict=True)
    )
    result[placed] = voxels[taken]
    return result
