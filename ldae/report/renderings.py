# SPDX-License-Identifier: Apache-2.0
"""What the scan verbs wrote in a run, as volumes that can be shown side by side."""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldae.data.artefact import read_json
from ldae.data.nifti import open_scan, read_geometry, read_voxels
from ldae.data.resample import Grid, to_ras, voxels_to_ras
from ldae.data.scan import Scan
from ldae.data.spec import Intensity
from ldae.diffusion.samplers import DEFAULT_SOLVER
from ldae.errors import CheckpointError
from ldae.pipeline import LDAEPipeline

FOLDER = "scans"
RESULT = "result.json"


@dataclass(frozen=True)
class Job:
    """What one scan verb wrote.

    Attributes:
        verb: Its name.
        folder: Where it wrote.
        pipeline: Folder of the pipeline.
        sources: The scans that it read.
        outputs: A record a scan: path, source, desc and what the verb tells of it.
        maps: The same of differences and statistics of scans.
    """

    verb: str
    folder: Path
    pipeline: Path
    sources: tuple[Path, ...]
    outputs: tuple[dict[str, Any], ...]
    maps: tuple[dict[str, Any], ...] = ()

    def of(self, source: Path) -> list[dict[str, Any]]:
        """The outputs of one source."""
        return [output for output in self.outputs if Path(output["source"]).absolute() == source]

    def statistic(self, source: Path, name: str) -> str | None:
        """File of a voxel-wise statistic of what was rendered from a scan, where there is one."""
        return next(
            (
                one["path"]
                for one in self.maps
                if one.get("Statistic") == name and Path(one["source"]).absolute() == source
            ),
            None,
        )

    def difference(self, output: Mapping[str, Any]) -> Path:
        """File of what a move changed."""
        return self.folder / str(output["Difference"])

    def command(self, *sources: Path) -> str:
        """The command that renders these sources again, or all that was drawn from none."""
        outputs = self.of(sources[0]) if sources else self.outputs
        first = outputs[0]
        steps = first.get("Steps", first["DecodeSteps"])
        words = ["ldae", self.verb, *map(short_path, sources)]
        words += ["--pipeline", short_path(self.pipeline), *_options(self.verb, outputs)]
        words += ["--steps", str(steps)]
        if first["DecodeSteps"] != steps:
            words += ["--decode-steps", str(first["DecodeSteps"])]
        if first["Solver"] != DEFAULT_SOLVER:
            words += ["--solver", first["Solver"]]
        return shlex.join([*words, "--out", short_path(self.folder)])


def _options(verb: str, outputs: Sequence[Mapping[str, Any]]) -> list[str]:
    first = outputs[0]
    if verb == "vary":
        return ["-n", str(max(output["Variation"] for output in outputs)), "--seed", str(first["Seed"])]
    if verb == "sample":
        words = ["-n", str(len(outputs)), "--seed", str(first["Seed"])]
        return words if first["TargetClass"] is None else [*words, "--class", first["TargetClass"]]
    if verb == "interpolate":
        return [word for output in outputs for word in ("--fraction", f"{output['Fraction']:g}")]
    if verb == "manipulate":
        words = ["--head", short_path(first["Head"])]
        if first["TargetClass"] is not None:
            words += ["--target-class", str(first["TargetClass"])]
        targets = dict.fromkeys(output["Target"] for output in outputs)
        words += [word for target in targets for word in ("--target", f"{target:g}")]
        held = [short_path(one["Head"]) if "Head" in one else one["Column"] for one in first["Hold"]]
        return [*words, "--hold", *held] if held else words
    return []


def _placed(records: Sequence[Mapping[str, Any]], folder: Path) -> tuple[dict[str, Any], ...]:
    return tuple({**one, "path": str(folder / one["path"])} for one in records)


def short_path(path: str | Path) -> str:
    """A path relative to the working folder where it lies in it."""
    path, here = Path(path).absolute(), Path.cwd()
    return os.fspath(path.relative_to(here)) if path.is_relative_to(here) else os.fspath(path)


def read_jobs(run_dir: Path) -> dict[str, Job]:
    """What the scan verbs wrote into scans/ of a run, by verb.

    Raises:
        CheckpointError: A record is not one of ldae's.
    """
    jobs = {}
    for path in sorted((run_dir / FOLDER).glob(f"*/{RESULT}")):
        document = read_json(path)
        try:
            job = Job(
                verb=document["verb"],
                folder=path.parent,
                pipeline=Path(document["pipeline"]["folder"]),
                sources=tuple(Path(source).absolute() for source in document["sources"]),
                outputs=_placed(document["outputs"], path.parent),
                maps=_placed(document["maps"], path.parent),
            )
        except (KeyError, TypeError) as error:
            raise CheckpointError(
                f"{path} must be a record of a scan verb, got other keys. Make it anew."
            ) from error
        if job.outputs:
            jobs[job.verb] = job
    return jobs


class Viewer:
    """Reads scans and what was rendered from them, both on the source's own grid and in [0, 1] of the source.

    Args:
        pipeline: The pipeline that rendered them.
    """

    def __init__(self, pipeline: LDAEPipeline) -> None:
        self.pipeline = pipeline
        self._scales: dict[Path, Intensity] = {}

    def source(self, path: Path) -> NDArray[np.float32]:
        """A scan as it was read, RAS [X, Y, Z]."""
        return self.rendered(path, like=path)

    def rendered(self, path: str | Path, *, like: Path) -> NDArray[np.float32]:
        """What was rendered from the source `like`."""
        return self._scale(like).apply(_read(path))

    def drawn(self, path: str | Path) -> NDArray[np.float32]:
        """A scan of nobody, which lies in [0, 1] on the pipeline's grid as it was written."""
        return _read(path)

    def map(self, path: str | Path, *, like: Path) -> NDArray[np.float32]:
        """A difference or a spread of what was rendered from `like`; 1 is its whole intensity range."""
        scale = self._scale(like)
        return np.asarray(_read(path) / np.float32(scale.upper - scale.lower))

    def autoencoder(self, path: Path) -> NDArray[np.float32]:
        """A scan through the autoencoder alone."""
        scan = self.pipeline.read(path)
        networks = self.pipeline.networks
        plain = scan.like(networks.expand(networks.compress(scan.data[None]))[0])
        with tempfile.TemporaryDirectory() as folder:
            return self.rendered(plain.save(Path(folder) / "scan.nii"), like=path)

    def spacing(self, path: Path) -> tuple[float, ...]:
        """Edges of a scan's voxels along right, anterior and superior, mm."""
        return tuple(map(float, self.grid(path).spacing))

    def grid(self, path: Path) -> Grid:
        """A scan's grid, RAS."""
        geometry = read_geometry(open_scan(path), path)
        return to_ras(Grid(geometry.shape, geometry.affine))

    def _scale(self, path: Path) -> Intensity:
        if path not in self._scales:
            scan: Scan = self.pipeline.read(path)
            assert scan.intensity is not None  # it was read from a file
            self._scales[path] = scan.intensity
        return self._scales[path]


def _read(path: str | Path) -> NDArray[np.float32]:
    """Voxels of a file in its own units, RAS."""
    image = open_scan(path)
    return voxels_to_ras(read_voxels(image, path), read_geometry(image, path).affine)
