# SPDX-License-Identifier: Apache-2.0
"""The picture that a person judges a scan by: slices along all three axes, with the outline of a mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from ldae.data.artefact import atomic_path

HEIGHT = 110
GAP = 12
OUTLINE = (255, 176, 0)


@dataclass(frozen=True)
class View:
    """A volume to show.

    Attributes:
        voxels: [X, Y, Z].
        affine: Voxels to millimetres, RAS+.
        mask: What to draw the outline of, on the same grid, or None.
    """

    voxels: NDArray[np.float32]
    affine: NDArray[np.float64]
    mask: NDArray[np.bool_] | None = None


def draw_mosaic(views: Sequence[View], path: Path, *, slices: int = 7) -> None:
    """Draw sagittal, coronal and axial slices, right is right, up is up, pixels square in mm.

    Args:
        views: Volumes, side by side.
        path: The JPEG.
        slices: How many of each volume in a row.
    """
    columns = [_column(view, slices) for view in views]
    width = sum(column.width for column in columns) + GAP * (len(columns) - 1)
    page = Image.new("RGB" if any(view.mask is not None for view in views) else "L", (width, 3 * HEIGHT))
    left = 0
    for column in columns:
        page.paste(column, (left, 0))
        left += column.width + GAP
    with atomic_path(path) as temporary:
        page.save(temporary, format="JPEG", quality=80)


def _column(view: View, slices: int) -> Image.Image:
    """Three rows of one volume."""
    oriented = nib.as_closest_canonical(nib.Nifti1Image(view.voxels, view.affine))
    values = np.asarray(oriented.dataobj, dtype=np.float32)
    low, high = np.quantile(values, [0.01, 0.995])
    grey = np.clip((values - low) / max(high - low, 1e-6) * 255, 0, 255).astype(np.uint8)
    mask = None
    if view.mask is not None:
        mask = nib.apply_orientation(view.mask.astype(np.uint8), nib.io_orientation(view.affine)) > 0
    zooms = np.asarray(oriented.header.get_zooms()[:3], dtype=float)
    rows = [_row(grey, mask, zooms, axis=axis, slices=slices) for axis in range(3)]
    width = max(row.width for row in rows)
    column = Image.new(rows[0].mode, (width, HEIGHT * len(rows)))
    for number, row in enumerate(rows):
        column.paste(row, ((width - row.width) // 2, HEIGHT * number))
    return column


def _row(
    grey: NDArray[np.uint8],
    mask: NDArray[np.bool_] | None,
    zooms: NDArray[np.float64],
    *,
    axis: int,
    slices: int,
) -> Image.Image:
    """Slices between a sixth and five sixths of an axis, side by side."""
    where = np.rint(np.linspace(1 / 6, 5 / 6, slices) * (grey.shape[axis] - 1)).astype(int)
    across, up = (other for other in range(3) if other != axis)
    size = grey.shape[across] * zooms[across], grey.shape[up] * zooms[up]
    width = max(8, round(HEIGHT * size[0] / size[1]))
    strip = Image.new("L" if mask is None else "RGB", (width * slices, HEIGHT))
    for number, index in enumerate(where):
        picture = _resized(grey.take(index, axis=axis), width, Image.Resampling.BILINEAR)
        if mask is not None:
            inside = _resized(255 * mask.take(index, axis=axis).astype(np.uint8), width)
            picture = _outlined(picture, np.asarray(inside) > 0)
        strip.paste(picture, (width * number, 0))
    return strip


def _resized(
    values: NDArray[np.uint8], width: int, way: Image.Resampling = Image.Resampling.NEAREST
) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(np.rot90(values))).resize((width, HEIGHT), way)


def _outlined(picture: Image.Image, inside: NDArray[np.bool_]) -> Image.Image:
    coloured = np.asarray(picture.convert("RGB")).copy()
    coloured[inside & ~ndimage.binary_erosion(inside)] = OUTLINE
    return Image.fromarray(coloured)
