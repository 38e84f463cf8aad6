# SPDX-License-Identifier: Apache-2.0
"""The trained model as one object: scans in, codes out, and back."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ldae.data.scan import Scan
from ldae.diffusion.samplers import DEFAULT_SOLVER, Solver
from ldae.errors import InputError
from ldae.pipeline.code import Code
from ldae.pipeline.codec import Codec, Source
from ldae.pipeline.interpolation import check_fractions, mix_codes
from ldae.pipeline.manipulation import (
    AnyHead,
    Held,
    Manipulation,
    Move,
    plan_moves,
    resolve_head,
    resolve_held,
)
from ldae.pipeline.networks import fresh_noise
from ldae.pipeline.novelty import Novelty, judge_scans, measure_scans

if TYPE_CHECKING:
    import pandas as pd

    from ldae.data.cache import VolumeCache

logger = logging.getLogger(__name__)


class LDAEPipeline(Codec):
    """Autoencoder, semantic encoder and guided diffusion of one training, as one object.

    Everything is computed in batches, in eval mode, without gradients. What comes out for a scan does not
    depend on the scans beside it.

    Example:
        >>> from ldae import LDAEPipeline
        >>> pipe = LDAEPipeline.from_pretrained("outputs/demo/pipeline")  # doctest: +SKIP
        >>> code = pipe.encode("sub-01_T1w.nii.gz")  # doctest: +SKIP
        >>> pipe.decode(code).save("out.nii.gz")  # doctest: +SKIP
    """

    def reconstruct(
        self,
        scan: Source,
        *,
        steps: int = 20,
        decode_steps: int | None = None,
        solver: Solver = DEFAULT_SOLVER,
        stop_fraction: float = 0.0,
    ) -> Scan:
        """Encode and decode a scan; `decode_steps` are `steps` where they are not given."""
        code = self.encode(scan, steps=steps, solver=solver)
        down = steps if decode_steps is None else decode_steps
        return self.decode(code, steps=down, solver=solver, stop_fraction=stop_fraction)

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
        trajectory: bool = False,
    ) -> list[Scan]:
        """Scans on the way from `a` to `b`, in the space of `a`.

        Args:
            a: Code of this pipeline, or a scan.
            b: The other one.
            fractions: 0 is `a`, 1 is `b`.
            steps: Network calls each way.
            solver: How a scan is encoded; codes are decoded by the solver that made them.
            extrapolate: Allow fractions below 0 and above 1.
            trajectory: Let both semantic codes guide every step, their gradients mixed (PDAE, arXiv
                2212.12990) instead of mixing the codes. "exact" then starts from the z_T
                between those of the two scans as from noise that was drawn.

        Raises:
            InputError: A fraction lies outside of 0..1 and `extrapolate` is False, or the stochastic codes
                are opposite.
        """
        check_fractions(fractions, extrapolate=extrapolate)
        first, second = (self._as_code(one, steps=steps, solver=solver) for one in (a, b))
        self.check_code(first)
        self.check_code(second)
        codes = [mix_codes(first, second, fraction=fraction) for fraction in fractions]
        if not trajectory:
            return self.decode(codes, steps=steps)
        pair = first.semantic[None], second.semantic[None]
        scans = []
        for fraction, code in zip(fractions, codes, strict=True):
            latents = self.networks.from_noise_between(
                code.stochastic[None], pair, fraction=fraction, steps=steps, solver=first.solver
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
        solver: Solver = DEFAULT_SOLVER,
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
            solver: How a scan is encoded; a code is decoded by the solver that made it.

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
            solver=solver,
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
        solver: Solver = DEFAULT_SOLVER,
    ) -> list[Manipulation]:
        """`manipulate` for a series of targets."""
        code = self._as_code(code, steps=steps, solver=solver)
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

    def sample(
        self,
        n: int = 4,
        *,
        target_class: str | None = None,
        seed: int = 0,
        steps: int = 20,
        solver: Solver = DEFAULT_SOLVER,
        stop_fraction: float = 0.0,
    ) -> list[Scan]:
        """New scans of nobody: semantic codes from the code sampler, stochastic ones from noise.

        Args:
            n: How many; the first ones are the same whatever `n` is.
            target_class: Class to draw from, such as "AD"; None draws from all.
            seed: Another seed, other scans.
            steps: Network calls from noise to latent, 1..T-1.
            solver: How the steps are taken.
            stop_fraction: Share of the noise levels, the lowest, at which the semantic code is switched off.

        Raises:
            FileNotFoundError: The pipeline has no code sampler; the message says what makes it.
            InputError: `n`, `seed`, the class, `steps`, `solver` or `stop_fraction` is not allowed.
        """
        from ldae.pipeline.samples import draw_codes, render_codes

        codes = draw_codes(self, n, target_class=target_class, seed=seed, solver=solver)
        return render_codes(self, codes, steps=steps, stop_fraction=stop_fraction)

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
