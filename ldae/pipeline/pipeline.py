# SPDX-License-Identifier: Apache-2.0
"""The trained model as one object: scans in, codes out, and back."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

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
from ldae.pipeline.interpolation import check_fractions, mix_codes
from ldae.pipeline.loading import load_networks
from ldae.pipeline.manipulation import (
    AnyHead,
    Held,
    Manipulation,
    Move,
    plan_moves,
    resolve_head,
    resolve_held,
)
from ldae.pipeline.networks import MOST_AT_ONCE, Networks, fresh_noise
from ldae.pipeline.novelty import Novelty, judge_scans, measure_scans
from ldae.pipeline.statistics import TrainingStatistics, load_statistics

if TYPE_CHECKING:
    import pandas as pd

    from ldae.data.cache import VolumeCache

logger = logging.getLogger(__name__)

Source = str | Path | Scan
"""A scan as a file, or already on the pipeline's grid."""
Sources = list[str] | list[Path] | list[Scan] | list[Source]


class LDAEPipeline:
    """Autoencoder, semantic encoder and guided diffusion of one training, as one object.

    Everything is computed in batches, in eval mode, without gradients. What comes out for a scan does not
    depend on the scans beside it.

    Attributes:
        networks: The networks, as functions on tensors.
        statistics: Distribution of the training scans.
        spec: How scans are brought onto the pipeline's grid.
        split: Hash of the subject split that it was trained on.
        sha256: Hash of networks and spec; codes, embeddings and heads name it.
        folder: Where it was read from.

    Example:
        >>> from ldae import LDAEPipeline
        >>> pipe = LDAEPipeline.from_pretrained("outputs/demo/pipeline")  # doctest: +SKIP
        >>> code = pipe.encode("sub-01_T1w.nii.gz")  # doctest: +SKIP
        >>> pipe.decode(code).save("out.nii.gz")  # doctest: +SKIP
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
    ) -> LDAEPipeline:
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

    def reconstruct(
        self,
        scan: Source,
        *,
        steps: int = 20,
        decode_steps: int | None = None,
        solver: Solver = DEFAULT_SOLVER,
    ) -> Scan:
        """Encode and decode a scan; `decode_steps` are `steps` where they are not given."""
        code = self.encode(scan, steps=steps, solver=solver)
        return self.decode(code, steps=steps if decode_steps is None else decode_steps, solver=solver)

    def vary(
        self,
        code: Code | Source,
        *,
        n: int = 8,
        seed: int = 0,
        steps: int = 20,
        solver: Solver = DEFAULT_SOLVER,
        stop_fraction: float = 0.0,
    ) -> list[Scan]:
        """Scans with the same semantic code and fresh stochastic codes.

        Args:
            code: Code of this pipeline, or a scan.
            n: How many; the first ones are the same whatever `n` is.
            seed: Another seed, other scans.
            steps: Network calls each way.
            solver: How a scan is encoded; a code is decoded by the solver that made it.
            stop_fraction: Share of the noise levels, the lowest, at which the semantic code is switched off.

        Raises:
            InputError: `n` or `seed` is not allowed.
        """
        if n < 1 or seed < 0:
            raise InputError(f"n must be 1 or more and seed 0 or more, got n={n} and seed={seed}.")
        code = self._as_code(code, steps=steps, solver=solver)
        self.check_code(code)
        noise = fresh_noise(code.stochastic.shape, seeds=[(seed, number) for number in range(n)])
        semantic = code.semantic.expand(n, -1)
        volumes = self.decode_tensors(
            semantic, noise, steps=steps, solver=code.solver, stop_fraction=stop_fraction
        )
        return [code.place.scan(volume, self.spec) for volume in volumes]

    def interpolate(
        self,
        a: Code | Source,
        b: Code | Source,
        *,
        fractions: Sequence[float] = (0.25, 0.5, 0.75),
        steps: int = 20,
        solver: Solver = DEFAULT_SOLVER,
        extrapolate: bool = False,
    ) -> list[Scan]:
        """Scans on the way from `a` to `b`, in the space of `a`.

        Args:
            a: Code of this pipeline, or a scan.
            b: The other one.
            fractions: 0 is `a`, 1 is `b`.
            steps: Network calls each way.
            solver: How a scan is encoded; codes are decoded by the solver that made them.
            extrapolate: Allow fractions below 0 and above 1.

        Raises:
            InputError: A fraction lies outside of 0..1 and `extrapolate` is False, or the stochastic codes
                are opposite.
        """
        first, second = self._ends(
            a, b, fractions=fractions, extrapolate=extrapolate, steps=steps, solver=solver
        )
        codes = [mix_codes(first, second, fraction=fraction) for fraction in fractions]
        return self.decode(codes, steps=steps)

    def interpolate_trajectory(
        self,
        a: Code | Source,
        b: Code | Source,
        *,
        fractions: Sequence[float] = (0.25, 0.5, 0.75),
        steps: int = 20,
        solver: Solver = DEFAULT_SOLVER,
        extrapolate: bool = False,
    ) -> list[Scan]:
        """As `interpolate`, but both semantic codes guide every step, their gradients mixed (PDAE).

        Each fraction has one z_T for both, between those of the two scans. Solver "exact" starts from it as
        from noise that was drawn.
        """
        first, second = self._ends(
            a, b, fractions=fractions, extrapolate=extrapolate, steps=steps, solver=solver
        )
        pair = first.semantic[None], second.semantic[None]
        scans = []
        for fraction in fractions:
            noise = mix_codes(first, second, fraction=fraction).stochastic[None]
            latents = self.networks.from_noise_between(
                noise, pair, fraction=fraction, steps=steps, solver=first.solver
            )
            scans.append(first.place.scan(self.networks.expand(latents)[0], self.spec))
        return scans

    def manipulate(
        self,
        code: Code | Source,
        head: AnyHead,
        *,
        target: float,
        target_class: Any = None,
        hold: Sequence[Held] = (),
        embeddings: pd.DataFrame | str | Path | None = None,
        steps: int = 20,
    ) -> Manipulation:
        """This brain, had the head said `target`: the semantic code is moved, the stochastic one stays.

        Args:
            code: Code of this pipeline, or a scan.
            head: Fitted head, linear or not, or its folder.
            target: Wanted probability in (0, 1), or wanted prediction of a regression head.
            target_class: Class that the probability speaks of; may be left out for two classes.
            hold: What shall stay: heads, their folders, or columns of numbers in the embeddings table. The
                direction is made orthogonal to theirs, so that what a linear head says does not change.
            embeddings: Table of these columns; None takes the one that the head was fitted on.
            steps: Network calls each way.

        Returns:
            Scan, code and move; the move says what held heads say before and after, and how far the code
            lies outside of the training codes. A warning is logged where it does.

        Raises:
            CheckpointError: The code, a head or the table belongs to another pipeline.
            InputError: The target is out of reach (the message names what can be reached), the class is
                unknown, no such column, or nothing is left beside what is held.
        """
        return self.trajectory(
            code,
            head,
            targets=[target],
            target_class=target_class,
            hold=hold,
            embeddings=embeddings,
            steps=steps,
        )[0]

    def trajectory(
        self,
        code: Code | Source,
        head: AnyHead,
        *,
        targets: Sequence[float],
        target_class: Any = None,
        hold: Sequence[Held] = (),
        embeddings: pd.DataFrame | str | Path | None = None,
        steps: int = 20,
    ) -> list[Manipulation]:
        """`manipulate` for a series of targets."""
        code = self._as_code(code, steps=steps)
        moves = self.move(
            code, head, targets=targets, target_class=target_class, hold=hold, embeddings=embeddings
        )
        for move in moves:
            if not move.novelty.inside:
                logger.warning("Target %g: %s", move.target, move.novelty.verdict)
        return self.render_moves(code, moves, steps=steps)

    def move(
        self,
        code: Code,
        head: AnyHead,
        *,
        targets: Sequence[float],
        target_class: Any = None,
        hold: Sequence[Held] = (),
        embeddings: pd.DataFrame | str | Path | None = None,
    ) -> list[Move]:
        """The semantic codes that `manipulate` would decode; arguments as there."""
        self.check_code(code)
        statistics = self.statistics
        fitted = resolve_head(head, std=statistics.std, pipeline=self.sha256)
        held = resolve_held(hold, head=fitted, std=statistics.std, embeddings=embeddings)
        return plan_moves(
            code.semantic,
            fitted,
            targets=targets,
            statistics=statistics,
            target_class=target_class,
            hold=held,
        )

    def render_moves(self, code: Code, moves: Sequence[Move], *, steps: int = 20) -> list[Manipulation]:
        """Decode a code before and after each of its moves."""
        moved = [replace(code, semantic=move.semantic) for move in moves]
        before, *scans = self.decode([code, *moved], steps=steps)
        return [Manipulation(*parts, before) for parts in zip(scans, moved, moves, strict=True)]

    def embed(
        self,
        scans: pd.DataFrame | str | Path | Sequence[str | Path],
        *,
        batch_size: int | None = None,
        cache: VolumeCache | None = None,
        progress: bool = False,
        depths: bool = False,
    ) -> pd.DataFrame:
        """One row a scan: subject, session, split, path, diagnosis, age, further columns, and y_000 and on.

        Args:
            scans: A cohort as `read_cohort` returns it, its table's path, a scan's path, or a list of scans.
            batch_size: Scans at a time; None takes a number that fits.
            cache: Preprocessed volumes of the pipeline's spec; None preprocesses on the way.
            progress: Show a bar.
            depths: Add the encoder's earlier depths, e1_000 and on.
        """
        from ldae.pipeline.embeddings import as_cohort, embed_frame

        return embed_frame(
            self,
            as_cohort(scans),
            batch_size=batch_size,
            cache=cache,
            progress=progress,
            depths=depths,
        )

    def novelty(self, scans: Sequence[Source], *, batch_size: int | None = None) -> list[Novelty]:
        """How far each scan lies outside of what the pipeline was trained on."""
        found: list[Novelty] = []
        for batch in self._batches(scans):
            volumes = torch.stack([scan.data for scan in batch])
            codes = self.networks.describe(volumes, batch_size=batch_size)
            measures = measure_scans(self.networks, volumes, batch_size=batch_size)
            found += judge_scans(self.statistics, codes, measures=measures)
        return found

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
        states = networks.to_noise_states(
            latents, semantic, steps=steps, solver=solver, batch_size=batch_size
        )
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

    def _ends(
        self,
        a: Code | Source,
        b: Code | Source,
        *,
        fractions: Sequence[float],
        extrapolate: bool,
        steps: int,
        solver: Solver,
    ) -> tuple[Code, Code]:
        check_fractions(fractions, extrapolate=extrapolate)
        first, second = (self._as_code(one, steps=steps, solver=solver) for one in (a, b))
        self.check_code(first)
        self.check_code(second)
        return first, second
