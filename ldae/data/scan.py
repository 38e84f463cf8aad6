# SPDX-License-Identifier: Apache-2.0
"""A scan on the pipeline's grid that knows the way back to where it came from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ldae.data.nifti import Geometry, check_suffix, write_on_affine, write_on_geometry
from ldae.data.resample import Grid, fit_grid, resample, to_ras, voxels_from_ras
from ldae.data.spec import Intensity, PreprocessingSpec
from ldae.errors import InputError


@dataclass
class Scan:
    """Voxels on the pipeline's grid.

    Attributes:
        data: float32 [1, X, Y, Z] in [0, 1].
        affine: Voxel indices of that grid to world millimetres (RAS+), [4, 4] float64.
        spec: The preprocessing that the grid belongs to.
        geometry: The source's own grid; None for a scan that has no source.
        intensity: How the source's intensities were scaled; None for a scan that has no source.
    """

    data: Tensor
    affine: NDArray[np.float64]
    spec: PreprocessingSpec
    geometry: Geometry | None = None
    intensity: Intensity | None = None

    def like(self, data: Tensor) -> Scan:
        """Other voxels [1, X, Y, Z] (or [X, Y, Z]) with this scan's place, source and intensity scale.

        Raises:
            InputError: The voxels do not have this scan's size.
        """
        wanted = tuple(self.data.shape)
        data = data[None] if data.dim() == 3 else data
        if tuple(data.shape) != wanted:
            raise InputError(f"Voxels must have the scan's shape {wanted}, got {tuple(data.shape)}.")
        return replace(self, data=data)

    def save(self, path: str | Path, *, on: Literal["source", "pipeline"] = "source") -> Path:
        """Write the scan as float32 NIfTI, in the source's intensities, atomically.

        On the source's grid it has the source's shape, affine, qform and sform with their codes, zooms and
        units; voxels beyond the pipeline's field of view hold the background, which is the source value that
        the spec maps to 0. Header extensions of the source are not copied. On the pipeline's grid, and for a
        scan without a source, nothing is resampled.

        Args:
            path: Name ending in .nii or .nii.gz.
            on: The grid that is written.

        Returns:
            The path written.

        Raises:
            InputError: The name has another ending, or is the source's own file.
        """
        path = Path(path)
        check_suffix(path)
        if on not in ("source", "pipeline"):
            raise InputError(f"on must be 'source' or 'pipeline', got {on!r}.")
        if self.geometry is not None and path.resolve() == Path(self.geometry.path).resolve():
            raise InputError(f"An output must not replace its source, got {path}. Choose another name.")
        values = self.data[0].detach().cpu().float().numpy()
        if self.geometry is None or on == "pipeline":
            write_on_affine(self._in_source_units(values), self.affine, path)
        else:
            write_on_geometry(self._in_source_units(self._on(self.geometry, values)), self.geometry, path)
        return path

    def _in_source_units(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        return values if self.intensity is None else self.intensity.invert(values)

    def _on(self, geometry: Geometry, values: NDArray[np.float32]) -> NDArray[np.float32]:
        source = to_ras(Grid(geometry.shape, geometry.affine))
        _, where = fit_grid(source, spacing=self.spec.spacing, size=self.spec.size)
        voxels = resample(values, where.inverse, shape=source.shape, outside=0)
        return voxels_from_ras(voxels, geometry.affine)


@dataclass(frozen=True)
class DifferenceMap:
    """Differences of intensities, or their spread, at each voxel of a scan.

    Attributes:
        data: float32 [1, X, Y, Z]; 1 is the whole intensity range of the scan.
        scan: The scan whose place and intensity scale they have.
    """

    data: Tensor
    scan: Scan

    @classmethod
    def between(cls, scan: Scan, other: Scan) -> Self:
        """`scan` minus `other`, which lie on one grid."""
        return cls(scan.like(scan.data - other.data).data, scan)

    def save(self, path: str | Path) -> Path:
        """Write the map as float32 NIfTI on the source's own grid, in units of the source's intensities.

        It is resampled as a scan is; voxels beyond the pipeline's field of view hold 0.

        Args:
            path: Name ending in .nii or .nii.gz.

        Returns:
            The path written.

        Raises:
            InputError: The name has another ending, or is the source's own file.
        """
        scale = self.scan.intensity
        if scale is not None:
            scale = replace(scale, lower=0.0, upper=scale.upper - scale.lower)
        return replace(self.scan, data=self.data, intensity=scale).save(path)
