# SPDX-License-Identifier: Apache-2.0
"""What the scan verbs do: scans in, a BIDS derivative and result.json out.

Paths of what was written are relative to the folder of result.json, paths of what was read absolute.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ldae import __version__
from ldae.data.artefact import write_json
from ldae.data.cohort import read_cohort
from ldae.data.differences import Difference, grid_differences
from ldae.data.scan import DifferenceMap, Scan
from ldae.data.split import SPLITS, check_split
from ldae.diffusion.samplers import DEFAULT_SOLVER, Solver, solver_levels
from ldae.diffusion.schedule import Schedule
from ldae.errors import InputError
from ldae.pipeline.code import Code
from ldae.pipeline.derivatives import Derivative, ScanName, check_names, number_label
from ldae.pipeline.interpolation import check_fractions
from ldae.pipeline.networks import MOST_AT_ONCE
from ldae.pipeline.novelty import Novelty
from ldae.pipeline.pipeline import LDAEPipeline

RESULT_NAME = "result.json"


@dataclass(frozen=True)
class InputScan:
    """A scan to work on, and what its outputs are called."""

    path: Path
    name: ScanName


@dataclass(frozen=True)
class Sampling:
    """How codes are found and rendered.

    Attributes:
        steps: Network calls from latent to noise, 1..T-1.
        decode_steps: Network calls from noise to latent; None takes `steps`.
        solver: How the steps are taken, both ways.
        stop_fraction: Share of the noise levels, the lowest, at which the semantic code is switched off when
            a scan is reconstructed or varied, 0..1.
    """

    steps: int = 20
    decode_steps: int | None = None
    solver: Solver = DEFAULT_SOLVER
    stop_fraction: float = 0.0

    @property
    def down(self) -> int:
        """Network calls from noise to latent."""
        return self.steps if self.decode_steps is None else self.decode_steps

    def check(self, schedule: Schedule) -> None:
        """Stop on what no walk can be taken with, before the first scan is read.

        Raises:
            InputError: Steps or `stop_fraction` out of range, unknown solver, or "exact" with two counts.
        """
        for steps in (self.steps, self.down):
            solver_levels(self.solver, schedule=schedule, steps=steps)
        if self.solver == "exact" and self.steps != self.down:
            raise InputError(
                f"Solver exact must take as many steps down as up, got {self.steps} up and {self.down} down. "
                "Give --steps alone, or another solver."
            )
        if not 0 <= self.stop_fraction <= 1:
            raise InputError(f"stop_fraction must lie within 0..1, got {self.stop_fraction}.")


@dataclass
class JobResult:
    """What a scan verb wrote.

    Attributes:
        result: The JSON file that lists it.
        paths: The scans, NIfTI files.
        maps: Differences and statistics of scans, NIfTI files.
        novelty: How far each source lies outside of the training scans.
        changes: Of each source, orientation and spacing where they are not the pipeline's.
    """

    result: Path
    paths: list[Path] = field(default_factory=list)
    maps: list[Path] = field(default_factory=list)
    novelty: dict[str, Novelty] = field(default_factory=dict)
    changes: dict[str, list[Difference]] = field(default_factory=dict)


@dataclass(frozen=True)
class ScanCheck:
    """How a scan differs from what a pipeline expects, and how far it lies outside of the training scans."""

    path: Path
    differences: list[Difference]
    novelty: Novelty | None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return {
            "path": str(self.path),
            "differences": [item.to_dict() for item in self.differences],
            "novelty": None if self.novelty is None else self.novelty.to_dict(),
        }


def gather_scans(
    scans: Sequence[str | Path] = (), *, cohort: str | Path | None = None, split: str | None = None
) -> list[InputScan]:
    """The scans that a verb was given: by path, or as a cohort or one split of it.

    Raises:
        FileNotFoundError: A path does not exist.
        InputError: Neither or both are given, two scans would share their outputs' names, or the split is
            unknown or empty.
    """
    if bool(scans) == (cohort is not None):
        got = "both" if scans else "neither"
        raise InputError(f"Scans must be given as paths or as a cohort, got {got}. Give one of the two.")
    found = _cohort_scans(cohort, split=split) if cohort is not None else _path_scans(scans, split=split)
    check_names([scan.name for scan in found], [scan.path for scan in found])
    return found


def _path_scans(scans: Sequence[str | Path], *, split: str | None) -> list[InputScan]:
    if split is not None:
        raise InputError(f"A split must come with a cohort, got {split!r} with paths. Leave one of them out.")
    for scan in scans:
        if not Path(scan).is_file():
            raise FileNotFoundError(
                f"A scan must be a file, got {scan}, which does not exist. Check the path."
            )
    return [InputScan(Path(scan), ScanName.of(scan)) for scan in scans]


def _cohort_scans(cohort: str | Path, *, split: str | None) -> list[InputScan]:
    frame = read_cohort(cohort)
    if "split" in frame.columns or split is not None:
        check_split(frame)
    if split is not None:
        if split not in SPLITS:
            raise InputError(f"split must be one of {', '.join(SPLITS)}, got {split!r}.")
        frame = frame[frame["split"] == split]
    if frame.empty:
        raise InputError(f"split must be one that {cohort} holds, got {split!r}. See its split column.")
    return [
        InputScan(Path(row.path), ScanName.of(row.path, subject=row.subject, session=row.session))
        for row in frame.itertuples()
    ]


def reconstruct_scans(
    pipeline: LDAEPipeline,
    scans: Sequence[InputScan],
    *,
    out: str | Path,
    sampling: Sampling | None = None,
    progress: bool = False,
) -> JobResult:
    """Encode and decode each scan; writes desc-reconstruction."""
    job = ScanJob(pipeline, out, scans=scans, sampling=sampling or Sampling(), progress=progress)
    for batch in job.batches():
        decoded = pipeline.decode(
            [code for _, code in batch], steps=job.sampling.down, stop_fraction=job.sampling.stop_fraction
        )
        for (scan, _), rendered in zip(batch, decoded, strict=True):
            job.write(
                scan,
                rendered,
                desc="reconstruction",
                description="Reconstruction of the scan from its semantic and its stochastic code.",
            )
    return job.finish("reconstruct")


def interpolate_scans(
    pipeline: LDAEPipeline,
    first: InputScan,
    *,
    second: InputScan,
    out: str | Path,
    fractions: Sequence[float] = (0.25, 0.5, 0.75),
    extrapolate: bool = False,
    trajectory: bool = False,
    sampling: Sampling | None = None,
) -> JobResult:
    """Render what lies between two scans in the space of the first; writes desc-interpolation0p25 and on.

    With `trajectory`, both semantic codes guide every step and their gradients are mixed.
    """
    check_fractions(fractions, extrapolate=extrapolate)
    job = ScanJob(pipeline, out, scans=[first, second], sampling=sampling or Sampling(), progress=False)
    start, end = (code for _, code in job.codes())
    scans = pipeline.interpolate(
        start,
        end,
        fractions=fractions,
        steps=job.sampling.down,
        extrapolate=extrapolate,
        trajectory=trajectory,
    )
    for fraction, rendered in zip(fractions, scans, strict=True):
        job.write(
            first,
            rendered,
            desc=f"interpolation{number_label(fraction)}",
            description=f"Between the codes of two scans, {fraction:g} of the way to the second.",
            sources=[first.path, second.path],
            details={"Fraction": fraction, "Trajectory": trajectory},
        )
    return job.finish("interpolate")


def check_scans(pipeline: LDAEPipeline, paths: Sequence[str | Path]) -> list[ScanCheck]:
    """What preprocessing does to each scan, and how far it lies outside of the training scans.

    A scan that preprocessing refuses has no novelty; its differences say why.
    """
    checks = []
    for path in map(Path, paths):
        found = pipeline.spec.differences(path)
        refused = any(item.action.startswith("refused") for item in found)
        checks.append(ScanCheck(path, found, None if refused else pipeline.novelty([path])[0]))
    return checks


class ScanJob:
    """Reads and encodes scans in batches, writes what is rendered, and keeps the record."""

    def __init__(
        self,
        pipeline: LDAEPipeline,
        out: str | Path,
        *,
        scans: Sequence[InputScan],
        sampling: Sampling,
        progress: bool,
    ) -> None:
        self.pipeline, self.scans, self.sampling, self.progress = pipeline, scans, sampling, progress
        self.derivative = Derivative(out, sources=[scan.path for scan in scans])
        self.result = JobResult(Path(out) / RESULT_NAME)
        self.records: list[dict[str, Any]] = []
        self.map_records: list[dict[str, Any]] = []
        # Wrong steps are said before the first scan is read.
        sampling.check(pipeline.networks.diffusion.schedule)

    def batches(self) -> Iterator[list[tuple[InputScan, Code]]]:
        """Scans with their codes, several at a time."""
        with tqdm(total=len(self.scans), desc="scans", disable=not self.progress) as bar:
            for start in range(0, len(self.scans), MOST_AT_ONCE):
                batch = self.scans[start : start + MOST_AT_ONCE]
                volumes: list[Scan] = [self.pipeline.read(scan.path) for scan in batch]
                for scan, volume, novelty in zip(batch, volumes, self.pipeline.novelty(volumes), strict=True):
                    self.result.novelty[str(scan.path)] = novelty
                    self.result.changes[str(scan.path)] = self._changes(volume)
                codes = self.pipeline.encode(volumes, steps=self.sampling.steps, solver=self.sampling.solver)
                yield list(zip(batch, codes, strict=True))
                bar.update(len(batch))

    def _changes(self, volume: Scan) -> list[Difference]:
        if volume.geometry is None:
            return []
        return [item for item in grid_differences(self.pipeline.spec, volume.geometry) if item.differs]

    def codes(self) -> Iterator[tuple[InputScan, Code]]:
        """Scans with their codes, one after another."""
        for batch in self.batches():
            yield from batch

    def write(
        self,
        scan: InputScan,
        rendered: Scan,
        *,
        desc: str,
        description: str,
        sources: Sequence[Path] = (),
        details: Mapping[str, Any] | None = None,
    ) -> None:
        """Write one rendered scan and note it."""
        told = {**self._told(scan), **(details or {})}
        path = self.derivative.write(
            rendered,
            scan.name,
            desc=desc,
            description=description,
            sources=sources or [scan.path],
            details=told,
        )
        self.result.paths.append(path)
        self.records.append(self._record(scan, path, desc=desc, told=told))

    def write_map(
        self,
        scan: InputScan,
        voxels: Scan | DifferenceMap,
        *,
        desc: str,
        description: str,
        details: Mapping[str, Any] | None = None,
    ) -> str:
        """Write a difference or a statistic of rendered scans, and note it.

        Returns:
            Its path relative to the folder of the record.
        """
        told = {**self._told(scan), **(details or {})}
        path = self.derivative.write(
            voxels, scan.name, desc=desc, description=description, sources=[scan.path], details=told
        )
        self.result.maps.append(path)
        self.map_records.append(self._record(scan, path, desc=desc, told=told))
        return self._relative(path)

    def _told(self, scan: InputScan) -> dict[str, Any]:
        return {
            "PipelineSha256": self.pipeline.sha256,
            "Seed": None,
            "Steps": self.sampling.steps,
            "DecodeSteps": self.sampling.down,
            "Solver": self.sampling.solver,
            "StopFraction": self.sampling.stop_fraction,
            "SourceNovelty": self.result.novelty[str(scan.path)].verdict,
        }

    def _record(self, scan: InputScan, path: Path, *, desc: str, told: Mapping[str, Any]) -> dict[str, Any]:
        return {"path": self._relative(path), "source": str(scan.path.absolute()), "desc": desc, **told}

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.result.result.parent).as_posix()

    def finish(self, verb: str) -> JobResult:
        """Write the record."""
        sources = {
            str(Path(path).absolute()): {
                **found.to_dict(),
                "changes": [item.to_dict() for item in self.result.changes[path]],
            }
            for path, found in self.result.novelty.items()
        }
        document = {
            "verb": verb,
            "ldae_version": __version__,
            "pipeline": {"folder": str(self.pipeline.folder.absolute()), "sha256": self.pipeline.sha256},
            "sources": sources,
            "outputs": self.records,
            "maps": self.map_records,
        }
        write_json(self.result.result, document)
        return self.result
