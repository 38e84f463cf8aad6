# SPDX-License-Identifier: Apache-2.0
"""The two codes of one scan, with the way back to where the scan came from."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ldae import __version__
from ldae.data.artefact import atomic_path, whole
from ldae.data.nifti import Geometry
from ldae.data.scan import Scan
from ldae.data.spec import Intensity, PreprocessingSpec
from ldae.diffusion.samplers import DEFAULT_SOLVER, Solver
from ldae.errors import CheckpointError

METADATA_KEY = "ldae_code"
AUXILIARY = "auxiliary."


@dataclass(frozen=True)
class Place:
    """Where a scan lies, on the pipeline's grid and on its own.

    Attributes:
        affine: Indices of the pipeline's grid to world millimetres (RAS+), [4, 4].
        geometry: The source's own grid; None for a scan without a source.
        intensity: How the source's intensities were scaled; None for a scan without a source.
    """

    affine: NDArray[np.float64]
    geometry: Geometry | None = None
    intensity: Intensity | None = None

    @classmethod
    def of(cls, scan: Scan) -> Place:
        """The place of a scan."""
        return cls(scan.affine, scan.geometry, scan.intensity)

    def scan(self, data: Tensor, spec: PreprocessingSpec) -> Scan:
        """Voxels [1, X, Y, Z] in [0, 1] as a scan at this place."""
        return Scan(
            data=data, affine=self.affine, spec=spec, geometry=self.geometry, intensity=self.intensity
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return {
            "affine": np.asarray(self.affine).tolist(),
            "geometry": self.geometry.to_dict() if self.geometry else None,
            "intensity": self.intensity.to_dict() if self.intensity else None,
        }

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> Place:
        """Inverse of `to_dict`."""
        geometry, intensity = document["geometry"], document["intensity"]
        return cls(
            affine=np.asarray(document["affine"], dtype=np.float64),
            geometry=Geometry.from_dict(geometry) if geometry else None,
            intensity=Intensity.from_dict(intensity) if intensity else None,
        )


@dataclass(frozen=True)
class Code:
    """What `LDAEPipeline.encode` makes of one scan.

    Attributes:
        semantic: What this brain is like, float32 [D].
        stochastic: The rest, float32 [C, h, w, d].
        place: The scan's grid, its source's grid, and its intensity scale.
        pipeline: sha256 of the pipeline that made it.
        auxiliary: What a solver needs besides, by name.
        solver: The solver that made `stochastic`, and decodes it unless another is asked for.
    """

    semantic: Tensor
    stochastic: Tensor
    place: Place
    pipeline: str
    auxiliary: dict[str, Tensor] = field(default_factory=dict)
    solver: Solver = DEFAULT_SOLVER

    @property
    def geometry(self) -> Geometry | None:
        """The source's own grid; None for a scan without a source."""
        return self.place.geometry

    @property
    def intensity(self) -> Intensity | None:
        """How the source's intensities were scaled; None for a scan without a source."""
        return self.place.intensity

    @property
    def auxiliary_numbers(self) -> int:
        """How many numbers the solver needs besides z_T."""
        return sum(tensor.numel() for tensor in self.auxiliary.values())

    def save(self, path: str | Path) -> Path:
        """Write the code as one safetensors file, its geometry and provenance as JSON in the header.

        Returns:
            The path written.
        """
        path = Path(path)
        tensors = {"semantic": self.semantic, "stochastic": self.stochastic}
        tensors |= {f"{AUXILIARY}{name}": value for name, value in self.auxiliary.items()}
        document = {
            "ldae_version": __version__,
            "pipeline": self.pipeline,
            "place": self.place.to_dict(),
            "solver": self.solver,
        }
        with atomic_path(path) as temporary:
            content = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
            save_file(content, temporary, metadata={METADATA_KEY: json.dumps(document, allow_nan=False)})
        return path

    @classmethod
    def load(cls, path: str | Path) -> Code:
        """Read a code that `save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            CheckpointError: It holds no code.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: a code must be a file that Code.save wrote.")
        try:
            with safe_open(path, framework="pt") as stream:
                metadata = stream.metadata() or {}
                tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise CheckpointError(
                f"{path} must be a code in safetensors, but reading it failed: {error}."
            ) from error
        if METADATA_KEY not in metadata or not {"semantic", "stochastic"} <= tensors.keys():
            raise CheckpointError(
                f"{path} must be a file that Code.save wrote, got tensors {sorted(tensors)[:5]}."
            )
        with whole(path):
            document = json.loads(metadata[METADATA_KEY])
            return cls(
                semantic=tensors.pop("semantic"),
                stochastic=tensors.pop("stochastic"),
                place=Place.from_dict(document["place"]),
                pipeline=document["pipeline"],
                auxiliary={name.removeprefix(AUXILIARY): value for name, value in tensors.items()},
                solver=document["solver"],
            )
