# SPDX-License-Identifier: Apache-2.0
"""What `ldae check` says: where a scan differs from a pipeline's preprocessing spec."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldae.data.nifti import Geometry, load_image, open_scan, read_geometry, read_voxels
from ldae.data.resample import SAME_SPACING, Grid, axis_codes, fit_grid, inside, to_ras, voxels_to_ras
from ldae.data.spec import Intensity, PreprocessingSpec
from ldae.errors import InputError


@dataclass(frozen=True)
class Difference:
    """One point of comparison between a scan and a spec.

    Attributes:
        item: What is compared.
        scan: The scan's value, in words.
        spec: The value that the spec wants, in words.
        differs: Whether the two are different.
        action: What preprocessing does about it.
        handled: False where the scan is refused, or loses something that matters.
    """

    item: str
    scan: str
    spec: str
    differs: bool
    action: str
    handled: bool

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return asdict(self)


def differences(spec: PreprocessingSpec, path: str | Path) -> list[Difference]:
    """Compare a scan with a spec, one item each, those that agree included.

    A scan that is refused for what its header or its intensities say is an item with `handled` False;
    the items that could not be looked at after that are left out.

    Raises:
        FileNotFoundError: There is no such file.
        InputError: It is not NIfTI, or damaged.
    """
    shape = tuple(load_image(path).shape)
    three = len(shape) == 3
    items = [
        Difference(
            item="dimensions",
            scan=f"{len(shape)}D {_by(shape)}",
            spec="3D",
            differs=not three,
            action="none" if three else "refused: save the one volume that is meant as a 3D file",
            handled=three,
        )
    ]
    return items + _compare(spec, path) if three else items


def grid_differences(spec: PreprocessingSpec, geometry: Geometry) -> list[Difference]:
    """The items orientation and spacing of a scan's own grid, whether they agree or not."""
    source = to_ras(Grid(geometry.shape, geometry.affine))
    return [_orientation(geometry.affine), _spacing(spec, source)]


def _compare(spec: PreprocessingSpec, path: str | Path) -> list[Difference]:
    image = open_scan(path)
    geometry = read_geometry(image, path)
    source = to_ras(Grid(geometry.shape, geometry.affine))
    voxels = voxels_to_ras(read_voxels(image, path), geometry.affine)
    items = [*grid_differences(spec, geometry), _data_type(str(image.get_data_dtype()))]
    voxel_ml = float(np.prod(source.spacing)) / 1000
    try:
        scale = spec.intensity(voxels, path=path, voxel_ml=voxel_ml)
    except InputError as error:
        values = f"{voxels.min():.4g} to {voxels.max():.4g}"
        refusal = Difference(
            "intensity range", values, "0 to 1", differs=True, action=f"refused: {error}", handled=False
        )
        return [*items, refusal]
    return [
        *items,
        _field_of_view(spec, source, voxels, lower=scale.lower),
        _intensity(spec, voxels, scale),
        _extraction(extracted=scale.brain_extracted),
    ]


def _orientation(affine: NDArray[np.float64]) -> Difference:
    codes = axis_codes(affine)
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    tilt = float(np.degrees(np.arccos(np.clip(np.abs(directions).max(axis=0).min(), 0, 1))))
    differs = codes != "RAS"
    action = "axes permuted and flipped, undone on output" if differs else "none"
    if tilt > 0.1:
        action += f"; the oblique frame ({tilt:.1f} degrees) is kept, the head is not rotated"
    return Difference("orientation", codes, "RAS", differs=differs, action=action, handled=True)


def _spacing(spec: PreprocessingSpec, source: Grid) -> Difference:
    wanted = np.asarray(spec.spacing)
    differs = bool((np.abs(source.spacing - wanted) >= SAME_SPACING).any())
    coarser = bool((wanted > source.spacing + SAME_SPACING).any())
    finer = bool((wanted < source.spacing - SAME_SPACING).any())
    action = "resampled linearly" + (" after anti-alias blur" if coarser else "")
    if finer:
        action += "; the scan is coarser than the pipeline, and detail is not added"
    return Difference(
        item="spacing",
        scan=f"{_by(source.spacing)} mm",
        spec=f"{_by(wanted)} mm",
        differs=differs,
        action=action if differs else "none",
        handled=True,
    )


def _field_of_view(
    spec: PreprocessingSpec, source: Grid, voxels: NDArray[np.float32], *, lower: float
) -> Difference:
    _, where = fit_grid(source, spacing=spec.spacing, size=spec.size)
    kept = voxels[inside(where, source=source.shape, shape=spec.size)]
    signal = int((voxels > lower).sum())
    lost = signal - int((kept > lower).sum())
    extent, wanted = source.spacing * source.shape, np.asarray(spec.spacing) * spec.size
    verbs = [
        verb
        for verb, needed in (
            ("cropped", kept.size < voxels.size),
            ("padded", bool((extent < wanted - 1e-3).any())),
        )
        if needed
    ]
    action = " and ".join(verbs) or "none"
    if lost:
        action += f"; {lost} voxels with signal ({100 * lost / signal:.1f} %) fall outside and are not seen"
    return Difference(
        item="field of view",
        scan=f"{_by(source.shape)} voxels, {_by(extent)} mm",
        spec=f"{_by(spec.size)} voxels, {_by(wanted)} mm",
        differs=bool(verbs),
        action=action,
        handled=lost <= 0.01 * signal,
    )


def _intensity(spec: PreprocessingSpec, voxels: NDArray[np.float32], scale: Intensity) -> Difference:
    return Difference(
        item="intensity range",
        scan=f"{voxels.min():.4g} to {voxels.max():.4g}",
        spec=f"0 to 1 (percentile {spec.upper_percentile:g} of voxels > 0 becomes 1)",
        differs=True,
        action=f"scaled from {scale.lower:.4g}..{scale.upper:.4g} and clipped, undone on output",
        handled=True,
    )


def _extraction(*, extracted: bool) -> Difference:
    return Difference(
        item="brain extraction",
        scan="brain alone" if extracted else "whole head, or background that is not 0",
        spec="not recorded; the verdict compares with the training scans",
        differs=False,
        action="0 becomes 0" if extracted else "the lower percentile of voxels > 0 becomes 0",
        handled=True,
    )


def _data_type(kind: str) -> Difference:
    differs = kind != "float32"
    action = "read with the header's scaling; output is float32" if differs else "none"
    return Difference("data type", kind, "float32", differs=differs, action=action, handled=True)


def _by(values: Any) -> str:
    return " x ".join(f"{value:.4g}" if isinstance(value, float) else str(value) for value in values)
