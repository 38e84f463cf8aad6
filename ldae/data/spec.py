# SPDX-License-Identifier: Apache-2.0
"""The preprocessing spec: one orientation, spacing, size and intensity rule for every scan of a pipeline."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ldae.data.artefact import sha256_json
from ldae.data.nifti import Geometry, open_scan, read_geometry, read_voxels
from ldae.data.resample import Grid, fit_grid, resample, to_ras, voxels_to_ras
from ldae.errors import CheckpointError, InputError

if TYPE_CHECKING:
    from ldae.data.differences import Difference
    from ldae.data.scan import Scan

# A scan counts as brain-extracted when its outermost layer and this share of all voxels are exactly 0 and
# the rest is no larger than a brain. A head in a wide frame of zeros passes the first two, not the third.
ZERO_SHARE = 0.3
ZERO_BORDER_SHARE = 0.97
LARGEST_BRAIN_ML = 2500.0
# Interpolation leaves slightly negative voxels. A normalised scan goes further below, or has its background
# there: percentile of all voxels, and how far below zero it may lie as a share of the upper value.
NEGATIVE_LIMITS = {0.5: 0.1, 25.0: 0.02}


@dataclass(frozen=True)
class Intensity:
    """How a scan's intensities were mapped to [0, 1]: x' = (x - lower) / (upper - lower), clipped.

    Attributes:
        lower: Source value that became 0.
        upper: Source value that became 1.
        clipped_share: Share of the source's positive voxels that lie outside [lower, upper].
        brain_extracted: Whether the scan was taken for a brain without skull, whose lower value is 0.
    """

    lower: float
    upper: float
    clipped_share: float
    brain_extracted: bool

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> Intensity:
        """Inverse of `to_dict`."""
        return cls(**document)

    def apply(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """From the source's units to [0, 1]."""
        scaled = (values - np.float32(self.lower)) / np.float32(self.upper - self.lower)
        return np.ascontiguousarray(np.clip(scaled, 0, 1), dtype=np.float32)

    def invert(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """From [0, 1] back to the source's units."""
        return np.asarray(self.lower + values * np.float32(self.upper - self.lower), dtype=np.float32)


@dataclass(frozen=True)
class Preprocessed:
    """A scan on the pipeline's grid, as arrays."""

    voxels: NDArray[np.float32]
    affine: NDArray[np.float64]
    geometry: Geometry
    intensity: Intensity


@dataclass(frozen=True)
class PreprocessingSpec:
    """RAS axes, spacing, size and robust intensities; saved in every artefact of a pipeline.

    A scan keeps the directions of its own axes (it is permuted and flipped to RAS, not rotated), is resampled
    about the centre of its field of view, padded or cropped, and scaled by percentiles of its own voxels.

    Attributes:
        spacing: Edges of a voxel in mm, along right, anterior, superior.
        size: Voxels along the same axes.
        orientation: Always "RAS".
        upper_percentile: Of the source's voxels > 0; becomes 1.
        lower_percentile: Of the source's voxels > 0; becomes 0. In a brain-extracted scan the value 0 does.
    """

    spacing: tuple[float, float, float] = (1.5, 1.5, 1.5)
    size: tuple[int, int, int] = (128, 160, 128)
    orientation: str = "RAS"
    upper_percentile: float = 99.5
    lower_percentile: float = 0.5

    def __post_init__(self) -> None:
        """Bring lists from YAML and JSON to tuples of one type, so that equal specs have equal hashes."""
        object.__setattr__(self, "spacing", tuple(float(value) for value in self.spacing))
        object.__setattr__(self, "size", tuple(int(value) for value in self.size))
        if len(self.spacing) != 3 or min(self.spacing) <= 0:
            raise InputError(f"spacing must be three positive lengths in mm, got {list(self.spacing)}.")
        if len(self.size) != 3 or min(self.size) < 2:
            raise InputError(f"size must be three numbers of voxels, each at least 2, got {list(self.size)}.")
        if self.orientation != "RAS":
            raise InputError(f"orientation must be 'RAS', got {self.orientation!r}. Leave the key out.")
        if not 0 <= self.lower_percentile < self.upper_percentile <= 100:
            raise InputError(
                "lower_percentile and upper_percentile must be rising and within 0..100, "
                f"got {self.lower_percentile} and {self.upper_percentile}."
            )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form, as artefacts store it."""
        return {**asdict(self), "spacing": list(self.spacing), "size": list(self.size)}

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> PreprocessingSpec:
        """Inverse of `to_dict`.

        Raises:
            CheckpointError: It has other keys than a spec of this version.
        """
        expected = set(cls.__dataclass_fields__)
        if not isinstance(document, dict) or set(document) != expected:
            raise CheckpointError(
                f"A preprocessing spec must have the keys {sorted(expected)}, got {document}. "
                "It was saved by another version of ldae."
            )
        try:
            return cls(**document)
        except (TypeError, ValueError, OverflowError) as error:
            raise CheckpointError(f"A preprocessing spec must be one, got {document}: {error}.") from error

    @property
    def sha256(self) -> str:
        """Hash of the spec."""
        return sha256_json(self.to_dict())

    def apply(self, path: str | Path) -> Scan:
        """Read a scan and bring it onto the pipeline's grid, [1, X, Y, Z] in [0, 1].

        Raises:
            FileNotFoundError: There is no such file.
            InputError: It is no readable 3D scan with usable intensities.
        """
        import torch

        from ldae.data.scan import Scan

        found = self.preprocess(path)
        return Scan(
            data=torch.from_numpy(found.voxels)[None],
            affine=found.affine,
            spec=self,
            geometry=found.geometry,
            intensity=found.intensity,
        )

    def preprocess(self, path: str | Path) -> Preprocessed:
        """The same as `apply`, as arrays (which need no torch)."""
        image = open_scan(path)
        voxels = read_voxels(image, path)
        geometry = read_geometry(image, path)
        scale = self.intensity(voxels, path=path, voxel_ml=_voxel_ml(geometry))
        values, affine = self.place(voxels, geometry, intensity=scale)
        return Preprocessed(values, affine, geometry, scale)

    def place(
        self, voxels: NDArray[np.float32], geometry: Geometry, *, intensity: Intensity
    ) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Voxels on a source's grid brought onto the pipeline's, with a given intensity scale.

        Returns:
            float32 [X, Y, Z] in [0, 1], and the affine of their grid.
        """
        grid, where = fit_grid(
            to_ras(Grid(geometry.shape, geometry.affine)), spacing=self.spacing, size=self.size
        )
        values = resample(
            voxels_to_ras(voxels, geometry.affine), where, shape=self.size, outside=intensity.lower
        )
        return intensity.apply(values), grid.affine

    def intensity(self, voxels: NDArray[np.float32], *, path: str | Path, voxel_ml: float) -> Intensity:
        """How the source's values are mapped to [0, 1].

        Raises:
            InputError: The intensities are not those of a scanner: none positive, or far below zero.
        """
        positive = voxels[voxels > 0]
        if positive.size == 0:
            raise InputError(
                f"A scan must have positive voxels, got none in {path}. Shift its background to 0."
            )
        low, high = (
            float(value) for value in np.percentile(positive, (self.lower_percentile, self.upper_percentile))
        )
        _check_background(voxels, high, path=path)
        extracted = is_brain_extracted(voxels, voxel_ml=voxel_ml)
        lower = 0.0 if extracted else low
        if high <= lower:
            raise InputError(
                f"A scan must have contrast, got the value {high:g} in nearly all positive voxels of {path}. "
                "Give the scan itself, not a mask."
            )
        clipped = float(((positive < lower) | (positive > high)).mean())
        return Intensity(lower=lower, upper=high, clipped_share=clipped, brain_extracted=extracted)

    def differences(self, path: str | Path) -> list[Difference]:
        """How a scan differs from the spec, and what is done about each point; see `ldae check`."""
        from ldae.data.differences import differences

        return differences(self, path)


def _check_background(voxels: NDArray[np.float32], high: float, *, path: str | Path) -> None:
    if voxels.min() >= 0:
        return
    floors = np.percentile(voxels, list(NEGATIVE_LIMITS))
    for (percentile, limit), floor in zip(NEGATIVE_LIMITS.items(), floors, strict=True):
        if floor < -limit * high:
            raise InputError(
                f"Intensities must not lie below zero, got {floor:.4g} at percentile {percentile:g} against "
                f"{high:.4g} at the top in {path}. It looks normalised (z-score, or [-1, 1]): give the scan "
                "from before, or shift it so that the background is 0."
            )


def is_brain_extracted(voxels: NDArray[np.float32], *, voxel_ml: float) -> bool:
    """Whether the scan shows a brain alone: see the three constants at the top of this module."""
    zeros = int((voxels == 0).sum())
    inner = voxels[1:-1, 1:-1, 1:-1]
    border_zeros = zeros - int((inner == 0).sum())
    return (
        zeros >= ZERO_SHARE * voxels.size
        and border_zeros >= ZERO_BORDER_SHARE * (voxels.size - inner.size)
        and (voxels.size - zeros) * voxel_ml <= LARGEST_BRAIN_ML
    )


def _voxel_ml(geometry: Geometry) -> float:
    return abs(float(np.linalg.det(geometry.affine[:3, :3]))) / 1000
