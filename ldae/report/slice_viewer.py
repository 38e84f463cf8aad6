# SPDX-License-Identifier: Apache-2.0
"""A change of a brain to walk through in three planes: nilearn's viewer, with all that it needs inside."""

from __future__ import annotations

import re

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ldae.report.cuts import COLOURS, Volume, head_box
from ldae.report.elements import View

EDGE = 2.0  # mm: voxels of the viewer, fine enough to read and small enough for a page
SHOWN = 0.25  # of the scale: smaller changes are transparent
SMOOTH = 1.5  # voxels: where the change is strongest is sought among regions, not single voxels
# nilearn's page names an icon of its web site; it is the only thing that lies outside.
ICON = re.compile(r"<link\b[^>]*>")


def view_difference(
    difference: Volume,
    *,
    scan: Volume,
    affine: NDArray[np.float64],
    limit: float,
    title: str,
    caption: str,
    command: str,
) -> View:
    """A difference over its scan.

    Args:
        difference: [X, Y, Z] in RAS.
        scan: The scan on the same grid.
        affine: Voxel indices to millimetres, [4, 4].
        limit: End of the colour scale.
        title: What is shown.
        caption: What it means.
        command: What made it.
    """
    from nilearn.plotting import view_img

    background = _image(scan, scan=scan, affine=affine)
    document = view_img(
        _image(difference, scan=scan, affine=affine),
        bg_img=background,
        cut_coords=_strongest(difference) * _spacing(affine),
        cmap=COLOURS["difference"],
        symmetric_cmap=True,
        vmax=limit,
        threshold=SHOWN * limit,
        black_bg=True,
        dim=0,
        annotate=False,
        resampling_interpolation="nearest",
    )
    width, depth, height = background.shape
    return View(
        html=ICON.sub("", document.html),
        title=title,
        ratio=round(max(depth, height) / (depth + 2 * width), 3),
        caption=caption,
        command=command,
    )


def _strongest(difference: Volume) -> NDArray[np.float64]:
    """Voxel in the middle of the strongest change."""
    smooth = ndimage.gaussian_filter(np.abs(difference), SMOOTH)
    return np.asarray(np.unravel_index(smooth.argmax(), smooth.shape), dtype=float)


def _spacing(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.linalg.norm(affine[:3, :3], axis=0))


def _image(volume: Volume, *, scan: Volume, affine: NDArray[np.float64]) -> nib.Nifti1Image:
    """A volume's head on a grid of even voxels along the axes of the scan."""
    from nilearn.image import resample_img

    box = head_box(scan)
    inner = volume[tuple(slice(low, high) for low, high in box)]
    spacing = _spacing(affine)
    # Obliqueness is left out: the viewer shows the scan's own axes, as all pictures of the page do.
    start = [low * edge for (low, _), edge in zip(box, spacing, strict=True)]
    image = nib.Nifti1Image(inner.astype(np.float32), _along_axes(spacing, start))
    even: nib.Nifti1Image = resample_img(image, target_affine=np.diag([EDGE] * 3), interpolation="linear")
    return even


def _along_axes(spacing: NDArray[np.float64], start: list[float]) -> NDArray[np.float64]:
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = start
    return affine
