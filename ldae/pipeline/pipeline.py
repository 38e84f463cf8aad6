# SPDX-License-Identifier: Apache-2.0
"""The trained model as one object: scans in, codes out, and back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor

from ldae.data.scan import Scan
from ldae.data.spec import PreprocessingSpec
from ldae.diffusion.samplers import Solver
from ldae.errors import CheckpointError, InputError
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
from ldae.pipeline.manipulation import AnyHead, Manipulation, Move, make_direction, move_code, resolve_head
from ldae.pipeline.networks import MOST_AT_ONCE, Networks, fresh_noise
from ldae.pipeline.novelty import Novelty, judge_scans, measure_scans
from ldae.pipeline.statistics import TrainingStatistics, load_statistics

if TYPE_CHECKING:
    import pandas as pd

    from ldae.data.cache import VolumeCache

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
        solver: Solver = "ddim-next",
        batch_size: int | None = None,
    ) -> Code | list[Code]:
        """The two codes of a scan, or of each scan in a list.

        Args:
            scan: File, or scan on the pipeline's grid; or a list of these.
            steps: Network calls of the walk from latent to noise, 1..T-1.
            solver: "ddim-next" or "ddim".
            batch_size: Scans at a time; None takes a number that fits.

        Raises:
            FileNotFoundError: There is no such file.
            InputError: A scan cannot be read, or lies on another grid; or `steps` or `solver` is wrong.
        """
        codes: list[Code] = []
        for batch in self._batches(scan if isinstance(scan, list) else [scan]):
            semantic, stochastic = self.encode_tensors(
                torch.stack([one.data for one in batch]), steps=steps, solver=solver, batch_size=batch_size
            )
            pairs = zip(semantic, stochastic, batch, strict=True)
            codes += [Code(y.clone(), z.clone(), Place.of(one), self.sha256) for y, z, one in pairs]
        return codes if isinstance(scan, list) else codes[0]

    @overload
    def decode(
        self, code: Code, *, steps: int = ..., stop_fraction: float = ..., batch_size: int | None = ...
    ) -> Scan: ...
    @overload
    def decode(
        self, code: list[Code], *, steps: int = ..., stop_fraction: float = ..., batch_size: int | None = ...
    ) -> list[Scan]: ...
    def decode(
        self,
        code: Code | list[Code],
        *,
        steps: int = 20,
        stop_fraction: float = 0.0,
        batch_size: int | None = None,
    ) -> Scan | list[Scan]:
        """The scan of a code, or of each code in a list; it saves itself in its source's own space.

        Args:
            code: Code of this pipeline, or a list of these.
            steps: Network calls of the walk from noise to latent, 1..T-1.
            stop_fraction: Share of the noise levels, the lowest, at which the semantic code is switched off.
            batch_size: Scans at a time; None takes a number that fits.

        Raises:
            CheckpointError: A code was made by another pipeline.
        """
        codes = [code] if isinstance(code, Code) else code
        for one in codes:
            self.check_code(one)
        if not codes:
            return []
        volumes = self.decode_tensors(
            torch.stack([one.semantic for one in codes]),
            torch.stack([one.stochastic for one in codes]),
            steps=steps,
            stop_fraction=stop_fraction,
            batch_size=batch_size,
        )
        scans = [one.place.scan(volume, self.spec) for one, volume in zip(codes, volumes, strict=True)]
        return scans[0] if isinstance(code, Code) else scans

    def reconstruct(
        self, scan: Source, *, steps: int = 20, decode_steps: int | None = None, solver: Solver = "ddim-next"
    ) -> Scan:
        """Encode and decode a scan; `decode_steps` are `steps` where they are not given."""
        code = self.encode(scan, steps=steps, solver=solver)
        return self.decode(code, steps=steps if decode_steps is None else decode_steps)

    def vary(self, code: Code | Source, *, n: int = 8, seed: int = 0, steps: int = 20) -> list[Scan]:
        """Scans with the same semantic code and fresh stochastic codes.

        Args:
            code: Code of this pipeline, or a scan.
            n: How many; the first ones are the same whatever `n` is.
            seed: Another seed, other scans.
            steps: Network calls each way.

        Raises:
            InputError: `n` or `seed` is not allowed.
        """
        if n < 1 or seed < 0:
            raise InputError(f"n must be 1 or more and seed 0 or more, got n={n} and seed={seed}.")
        code = self._as_code(code, steps=steps)
        noise = fresh_noise(code.stochastic.shape, seeds=[(seed, number) for number in range(n)])
        codes = [replace(code, stochastic=drawn, auxiliary={}) for drawn in noise]
        return self.decode(codes, steps=steps)

    def interpolate(
        self,
        a: Code | Source,
        b: Code | Source,
        *,
        fractions: Sequence[float] = (0.25, 0.5, 0.75),
        steps: int = 20,
        extrapolate: bool = False,
    ) -> list[Scan]:
        """Scans on the way from `a` to `b`, in the space of `a`.

        Args:
            a: Code of this pipeline, or a scan.
            b: The other one.
            fractions: 0 is `a`, 1 is `b`.
            steps: Network calls each way.
            extrapolate: Allow fractions below 0 and above 1.

        Raises:
            InputError: A fraction lies outside of 0..1 and `extrapolate` is False.
        """
        check_fractions(fractions, extrapolate=extrapolate)
        first, second = self._as_code(a, steps=steps), self._as_code(b, steps=steps)
        self.check_code(first)
        self.check_code(second)
        codes = [mix_codes(first, second, fraction=fraction) for fraction in fractions]
        return self.decode(codes, steps=steps)

    def manipulate(
        self,
        code: Code | Source,
        head: AnyHead,
        *,
        target: float,
        target_class: Any = None,
        hold: Sequence[AnyHead] = (),
        steps: int = 20,
    ) -> Manipulation:
        """This brain, had the head said `target`: the semantic code is moved, the stochastic one stays.

        Args:
            code: Code of this pipeline, or a scan.
            head: Fitted head, or its folder.
            target: Wanted probability in (0, 1), or wanted prediction of a regression head.
            target_class: Class that the probability speaks of; may be left out for two classes.
            hold: Heads whose linear directions are not to be moved along.
            steps: Network calls each way.

        Raises:
            CheckpointError: The code or a head belongs to another pipeline.
            InputError: The target is out of reach (the message names what can be reached), the class is
                unknown, or nothing is left beside the held heads.
        """
        return self.trajectory(
            code, head, targets=[target], target_class=target_class, hold=hold, steps=steps
        )[0]

    def trajectory(
        self,
        code: Code | Source,
        head: AnyHead,
        *,
        targets: Sequence[float],
        target_class: Any = None,
        hold: Sequence[AnyHead] = (),
        steps: int = 20,
    ) -> list[Manipulation]:
        """`manipulate` for a series of targets."""
        code = self._as_code(code, steps=steps)
        moves = self.move(code, head, targets=targets, target_class=target_class, hold=hold)
        moved = [replace(code, semantic=move.semantic) for move in moves]
        scans = self.decode(moved, steps=steps)
        return [Manipulation(*parts) for parts in zip(scans, moved, moves, strict=True)]

    def move(
        self,
        code: Code,
        head: AnyHead,
        *,
        targets: Sequence[float],
        target_class: Any = None,
        hold: Sequence[AnyHead] = (),
    ) -> list[Move]:
        """The semantic codes that `manipulate` would decode; arguments as there."""
        self.check_code(code)
        std = self.statistics.std
        fitted, *held = (resolve_head(one, std=std, pipeline=self.sha256) for one in (head, *hold))
        direction = make_direction(fitted, std=std, target_class=target_class, hold=held)
        return [
            move_code(
                code.semantic,
                fitted,
                direction=direction,
                target=value,
                statistics=self.statistics,
                target_class=target_class,
            )
            for value in targets
        ]

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
        self, volumes: Tensor, *, steps: int = 20, solver: Solver = "ddim-next", batch_size: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Scans [B, 1, X, Y, Z] in [0, 1] to semantic [B, D] and stochastic codes [B, C, h, w, d]."""
        networks = self.networks
        networks.diffusion.schedule.grid(steps)
        semantic = networks.describe(volumes, batch_size=batch_size)
        latents = networks.compress(volumes, batch_size=batch_size)
        stochastic = networks.to_noise(latents, semantic, steps=steps, solver=solver, batch_size=batch_size)
        return semantic, stochastic

    def decode_tensors(
        self,
        semantic: Tensor | None,
        stochastic: Tensor,
        *,
        steps: int = 20,
        stop_fraction: float = 0.0,
        batch_size: int | None = None,
    ) -> Tensor:
        """Semantic codes (None: the denoiser alone) and stochastic ones to scans [B, 1, X, Y, Z]."""
        latents = self.networks.from_noise(
            stochastic, semantic, steps=steps, stop_fraction=stop_fraction, batch_size=batch_size
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

    def _as_code(self, code: Code | Source, *, steps: int) -> Code:
        return code if isinstance(code, Code) else self.encode(code, steps=steps)
