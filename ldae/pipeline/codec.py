# SPDX-License-Identifier: Apache-2.0
"""Networks, preprocessing and training statistics as one object: scans to codes and back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self, overload

import torch
from torch import Tensor

from ldae.data.scan import Scan
from ldae.data.spec import PreprocessingSpec
from ldae.diffusion.samplers import DEFAULT_SOLVER, Solver, solver_levels
from ldae.errors import CheckpointError, InputError
from ldae.pipeline.auxiliary import choose_solver, pack_auxiliary, stack_previous
from ldae.pipeline.code import Code, Place
from ldae.pipeline.folder import (
    PipelineIndex,
    check_component,
    component_folder,
    copy_component,
    read_index,
    write_index,
)
from ldae.pipeline.loading import load_networks
from ldae.pipeline.networks import MOST_AT_ONCE, Networks
from ldae.pipeline.statistics import TrainingStatistics, load_statistics

Source = str | Path | Scan
"""A scan as a file, or already on the pipeline's grid."""
Sources = list[str] | list[Path] | list[Scan] | list[Source]


class Codec:
    """What a pipeline is made of, its folder, and the way from scans to codes and back.

    Attributes:
        networks: The networks, as functions on tensors.
        statistics: Distribution of the training scans.
        index: What its folder says of it.
        spec: How scans are brought onto the pipeline's grid.
        split: Hash of the subject split that it was trained on.
        sha256: Hash of networks and spec; codes, embeddings and heads name it.
        folder: Where it was read from.
    """

    def __init__(
        self, networks: Networks, statistics: TrainingStatistics, *, index: PipelineIndex, folder: Path
    ) -> None:
        self.networks = networks
        self.statistics = statistics
        self.index = index
        self.folder = folder
        self.spec = PreprocessingSpec.from_dict(index.spec)
        self.split = index.split
        self.sha256 = index.sha256

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, device: str = "auto", dtype: torch.dtype = torch.float32
    ) -> Self:
        """Load a pipeline folder and check that its components belong together.

        Args:
            folder: Folder with model_index.json.
            device: "auto" (a GPU where there is one), "cpu", "cuda:1" and so on.
            dtype: Type in which layers compute; weights and the samplers' state stay float32.

        Raises:
            FileNotFoundError: The folder or a component is missing; the message says what makes it.
            CheckpointError: A component is damaged, or not the one that the others were made with.
            InputError: This machine has no such device.
        """
        folder = Path(folder)
        index = read_index(folder)
        statistics, component = load_statistics(component_folder(folder, "statistics"))
        check_component(component, index=index, folder=folder)
        networks = load_networks(folder, index=index, device=device, dtype=dtype)
        return cls(networks, statistics, index=index, folder=folder)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Copy the pipeline's folder, component by component, hashes kept.

        Returns:
            The folder written.
        """
        folder = Path(folder)
        for kind in self.index.components:
            copy_component(component_folder(self.folder, kind), folder / kind)
        write_index(folder, self.index)
        return folder

    @overload
    def encode(
        self, scan: Source, *, steps: int = ..., solver: Solver = ..., batch_size: int | None = ...
    ) -> Code: ...
    @overload
    def encode(
        self, scan: Sources, *, steps: int = ..., solver: Solver = ..., batch_size: int | None = ...
    ) -> list[Code]: ...
    def encode(
        self,
        scan: Source | Sources,
        *,
        steps: int = 20,
        solver: Solver = DEFAULT_SOLVER,
        batch_size: int | None = None,
    ) -> Code | list[Code]:
        """The two codes of a scan, or of each scan in a list.

        Args:
            scan: File, or scan on the pipeline's grid; or a list of these.
            steps: Network calls of the walk from latent to noise, 1..T-1.
            solver: How the steps are taken, one of `ldae.diffusion.samplers.SOLVERS`.
            batch_size: Scans at a time; None takes a number that fits.

        Raises:
            FileNotFoundError: There is no such file.
            InputError: A scan cannot be read, or lies on another grid; or `steps` or `solver` is wrong.
        """
        codes: list[Code] = []
        for batch in self._batches(scan if isinstance(scan, list) else [scan]):
            volumes = torch.stack([one.data for one in batch])
            semantic, stochastic, previous = self._encode(
                volumes, steps=steps, solver=solver, batch_size=batch_size
            )
            for number, (y, z, one) in enumerate(zip(semantic, stochastic, batch, strict=True)):
                kept = {} if previous is None else pack_auxiliary(previous[number], steps=steps)
                codes.append(Code(y.clone(), z.clone(), Place.of(one), self.sha256, kept, solver))
        return codes if isinstance(scan, list) else codes[0]

    def describe(self, scans: Sequence[Source], *, batch_size: int | None = None) -> Tensor:
        """The semantic codes of scans, float32 [N, D]: one pass of the encoder each, no walk to noise.

        Args:
            scans: Files, or scans on the pipeline's grid.
            batch_size: Scans at a time; None takes a number that fits.

        Raises:
            FileNotFoundError: There is no such file.
            InputError: A scan cannot be read, or lies on another grid.
        """
        codes = [torch.empty(0, len(self.statistics.mean))]
        for batch in self._batches(scans):
            volumes = torch.stack([scan.data for scan in batch])
            codes.append(self.networks.describe(volumes, batch_size=batch_size))
        return torch.cat(codes)

    @overload
    def decode(
        self,
        code: Code,
        *,
        steps: int = ...,
        solver: Solver | None = ...,
        stop_fraction: float = ...,
        batch_size: int | None = ...,
    ) -> Scan: ...
    @overload
    def decode(
        self,
        code: list[Code],
        *,
        steps: int = ...,
        solver: Solver | None = ...,
        stop_fraction: float = ...,
        batch_size: int | None = ...,
    ) -> list[Scan]: ...
    def decode(
        self,
        code: Code | list[Code],
        *,
        steps: int = 20,
        solver: Solver | None = None,
        stop_fraction: float = 0.0,
        batch_size: int | None = None,
    ) -> Scan | list[Scan]:
        """The scan of a code, or of each code in a list; it saves itself in its source's own space.

        Args:
            code: Code of this pipeline, or a list of these.
            steps: Network calls of the walk from noise to latent, 1..T-1.
            solver: How the steps are taken; None takes the one that made the codes.
            stop_fraction: Share of the noise levels, the lowest, at which the semantic code is switched off.
            batch_size: Scans at a time; None takes a number that fits.

        Raises:
            CheckpointError: A code was made by another pipeline.
            InputError: "exact" is to decode a code without its auxiliary or in other steps than it was
                encoded in; or `steps`, `solver` or `stop_fraction` is wrong.
        """
        codes = [code] if isinstance(code, Code) else code
        for one in codes:
            self.check_code(one)
        if not codes:
            return []
        chosen = choose_solver(codes, solver=solver, steps=steps)
        volumes = self.decode_tensors(
            torch.stack([one.semantic for one in codes]),
            torch.stack([one.stochastic for one in codes]),
            steps=steps,
            solver=chosen,
            previous=stack_previous(codes) if chosen == "exact" else None,
            stop_fraction=stop_fraction,
            batch_size=batch_size,
        )
        scans = [one.place.scan(volume, self.spec) for one, volume in zip(codes, volumes, strict=True)]
        return scans[0] if isinstance(code, Code) else scans

    def encode_tensors(
        self,
        volumes: Tensor,
        *,
        steps: int = 20,
        solver: Solver = DEFAULT_SOLVER,
        batch_size: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Scans [B, 1, X, Y, Z] in [0, 1] to semantic [B, D] and stochastic codes [B, C, h, w, d]."""
        return self._encode(volumes, steps=steps, solver=solver, batch_size=batch_size)[:2]

    def _encode(
        self, volumes: Tensor, *, steps: int, solver: Solver, batch_size: int | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        networks = self.networks
        solver_levels(solver, schedule=networks.diffusion.schedule, steps=steps)
        semantic = networks.describe(volumes, batch_size=batch_size)
        latents = networks.compress(volumes, batch_size=batch_size)
        states = networks.to_noise(latents, semantic, steps=steps, solver=solver, batch_size=batch_size)
        return semantic, *states

    def decode_tensors(
        self,
        semantic: Tensor | None,
        stochastic: Tensor,
        *,
        steps: int = 20,
        solver: Solver = DEFAULT_SOLVER,
        previous: Tensor | None = None,
        stop_fraction: float = 0.0,
        batch_size: int | None = None,
    ) -> Tensor:
        """Semantic codes (None: the denoiser alone) and stochastic ones to scans [B, 1, X, Y, Z]."""
        latents = self.networks.from_noise(
            stochastic,
            semantic,
            steps=steps,
            solver=solver,
            previous=previous,
            stop_fraction=stop_fraction,
            batch_size=batch_size,
        )
        return self.networks.expand(latents, batch_size=batch_size)

    def check_code(self, code: Code) -> None:
        """Stop when a code was made by another pipeline.

        Raises:
            CheckpointError: With both hashes.
        """
        if code.pipeline != self.sha256:
            raise CheckpointError(
                f"The code was made by pipeline {code.pipeline[:12]}, but {self.folder} is pipeline "
                f"{self.sha256[:12]}. Encode the scan again with this one."
            )

    def read(self, scan: Source) -> Scan:
        """A scan on the pipeline's grid.

        Raises:
            FileNotFoundError: There is no such file.
            InputError: It cannot be read, or is a scan of another spec.
        """
        if not isinstance(scan, Scan):
            return self.spec.apply(scan)
        if scan.spec != self.spec:
            raise InputError(
                f"A scan must be preprocessed with the pipeline's spec {self.spec.to_dict()}, got "
                f"{scan.spec.to_dict()}. Give its file."
            )
        return scan

    def _batches(self, scans: Sequence[Source]) -> Iterator[list[Scan]]:
        for start in range(0, len(scans), MOST_AT_ONCE):
            yield [self.read(scan) for scan in scans[start : start + MOST_AT_ONCE]]

    def _as_code(self, code: Code | Source, *, steps: int, solver: Solver = DEFAULT_SOLVER) -> Code:
        return code if isinstance(code, Code) else self.encode(code, steps=steps, solver=solver)
