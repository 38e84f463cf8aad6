# SPDX-License-Identifier: Apache-2.0
"""Scans taken up to noise and back down by one solver after the other, each way up taken once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import ceil
from pathlib import Path
from typing import TypeVar

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from ldae.data.artefact import atomic_path
from ldae.diffusion.samplers import Solver
from ldae.errors import InputError
from ldae.evaluation.brain import brain_masks
from ldae.evaluation.likeness import Panel
from ldae.evaluation.material import ScanSet
from ldae.evaluation.workers import count_workers, side_by_side
from ldae.pipeline.auxiliary import pack_auxiliary
from ldae.pipeline.networks import fresh_noise

Result = TypeVar("Result")

AUTOENCODER, BOTH, SEMANTIC, LDDIM = "autoencoder", "reconstruction", "semantic_only", "lddim"
INPUT = "input"
WHOLE, BRAIN = "whole", "brain"
MOMENTS = ("noise_moment_1", "noise_moment_2", "noise_moment_3", "noise_moment_4")
AT_ONCE = 8
"""Scans at a time at most."""


@dataclass(frozen=True)
class Walk:
    """One way up and down.

    Attributes:
        kind: "reconstruction" with both codes; "semantic_only" from fresh noise; "lddim" by the denoiser
            alone, without a semantic code on either way.
        solver: How the steps are taken.
        up: Network calls from latent to noise; None for noise that is drawn.
        down: Network calls from noise to latent.
    """

    kind: str
    solver: Solver
    up: int | None
    down: int

    @property
    def calls(self) -> int:
        """Network calls both ways."""
        return (self.up or 0) + self.down

    @property
    def name(self) -> str:
        """Name of its file."""
        return f"{self.kind}-{self.solver}-{self.up or 0}-{self.down}"


def plan_walks(solvers: Sequence[Solver], *, up: Sequence[int], down: Sequence[int]) -> list[Walk]:
    """Every solver with every pair of step counts, its baselines with equal ones, by the way up.

    Raises:
        InputError: Solver exact is asked for, but no number of steps both ways.
    """
    walks: list[Walk] = []
    for solver in solvers:
        both = [steps for steps in up if steps in down]
        if solver == "exact" and not both:
            raise InputError(
                f"Solver exact must take as many steps down as up, got {list(up)} up and {list(down)} down."
            )
        pairs = [(a, b) for a in up for b in down if solver != "exact" or a == b]
        walks += [Walk(BOTH, solver, a, b) for a, b in pairs]
        walks += [Walk(LDDIM, solver, steps, steps) for steps in both]
        walks += [Walk(SEMANTIC, solver, None, b) for b in dict.fromkeys(b for _, b in pairs)]
    return walks


@dataclass(frozen=True)
class JudgedScans:
    """Scans with all that is compared with them, in memory.

    Attributes:
        scans: The opened material.
        rows: Its rows that are judged, N of them.
        volumes: The scans [N, 1, X, Y, Z].
        latents: Their latents z_0 [N, C, h, w, d].
        semantic: Their semantic codes [N, D].
        plain: The autoencoder's reconstructions, of the shape of `volumes`.
        brain: Where the brain is, bool [1, X, Y, Z] each, or None.
    """

    scans: ScanSet
    rows: pd.DataFrame
    volumes: Tensor
    latents: Tensor
    semantic: Tensor
    plain: Tensor
    brain: list[Tensor | None]

    @classmethod
    def of(cls, scans: ScanSet, rows: pd.DataFrame, *, folder: Path) -> JudgedScans:
        """Read, compress and describe them; `folder` is what paths of masks are relative to."""
        networks, volumes = scans.pipeline.networks, scans.volumes(rows)
        latents = networks.compress(volumes)
        brain = brain_masks(scans, rows, volumes=volumes, folder=folder)
        return cls(scans, rows, volumes, latents, networks.describe(volumes), networks.expand(latents), brain)

    @property
    def batches(self) -> list[list[int]]:
        """Places of the scans, so many at a time that there is a batch for every worker."""
        count, workers = len(self.rows), count_workers(self.scans.pipeline.networks)
        size = min(AT_ONCE, ceil(count / workers))
        return [list(range(start, min(start + size, count))) for start in range(0, count, size)]


@dataclass(frozen=True)
class Noise:
    """Where the ways down begin.

    Attributes:
        stochastic: z_T [N, C, h, w, d].
        previous: What solver "exact" needs besides.
        seconds: How long the way up took, a scan; None for noise that was drawn.
        auxiliary_bytes: Size of what a code holds besides z_T.
    """

    stochastic: Tensor
    previous: Tensor | None = None
    seconds: float | None = None
    auxiliary_bytes: int = 0


@dataclass(frozen=True)
class Sweep:
    """All walks of some scans, each written down when it is done.

    Attributes:
        judged: The scans.
        panel: The metrics.
        parts: Folder of the walks that are done.
        seed: Seed of the fresh noise, one draw a scan.
        clip_sample: Clip x0 to [-1, 1] as the published sampler does.
    """

    judged: JudgedScans
    panel: Panel
    parts: Path
    seed: int = 0
    clip_sample: bool = False

    def run(self, walks: Sequence[Walk], *, progress: bool = False) -> pd.DataFrame:
        """One row a scan, walk, reference and region; the autoencoder alone comes first."""
        frames = [self._compare(lambda places: self.judged.plain[places], kind=AUTOENCODER, against=[INPUT])]
        self._warm_up(walks[0])
        with tqdm(total=len(walks), desc="sweep", disable=not progress) as bar:
            for _, group in groupby(walks, key=lambda walk: (walk.kind, walk.solver, walk.up)):
                for frame in self._from_one_way_up(list(group)):
                    frames.append(frame)
                    bar.update()
        return pd.concat(frames, ignore_index=True)

    def _warm_up(self, walk: Walk) -> None:
        """One call that is not timed: the first one on a device also sets it up."""
        self._encode(Walk(BOTH, walk.solver, 1, 1), self.judged.batches[0])

    def _from_one_way_up(self, walks: list[Walk]) -> Iterable[pd.DataFrame]:
        noise: Noise | None = None
        for walk in walks:
            path = self.parts / f"{walk.name}.parquet"
            if not path.is_file():
                noise = noise or self._up(walk)
                with atomic_path(path) as temporary:
                    self._down(walk, noise).to_parquet(temporary, index=False)
            yield pd.read_parquet(path)

    def _semantic(self, walk: Walk, places: list[int]) -> Tensor | None:
        return None if walk.kind == LDDIM else self.judged.semantic[places]

    def _encode(self, walk: Walk, places: list[int]) -> tuple[Tensor, Tensor | None]:
        assert walk.up is not None
        return self.judged.scans.pipeline.networks.to_noise(
            self.judged.latents[places],
            self._semantic(walk, places),
            steps=walk.up,
            solver=walk.solver,
            clip_sample=self.clip_sample,
        )

    def _decode(self, walk: Walk, places: list[int], noise: Noise) -> Tensor:
        return self.judged.scans.pipeline.networks.from_noise(
            noise.stochastic[places],
            self._semantic(walk, places),
            steps=walk.down,
            solver=walk.solver,
            previous=None if noise.previous is None else noise.previous[places],
            clip_sample=self.clip_sample,
        )

    def _up(self, walk: Walk) -> Noise:
        judged = self.judged
        if walk.up is None:
            seeds = [(self.seed, int(index)) for index in judged.rows.index]
            return Noise(fresh_noise(judged.latents.shape[1:], seeds=seeds))
        started = time.perf_counter()
        states = self._side_by_side(lambda places: self._encode(walk, places))
        seconds = (time.perf_counter() - started) / len(judged.rows)
        stochastic = torch.cat([noise for noise, _ in states])
        lasts = [last for _, last in states if last is not None]
        if not lasts:
            return Noise(stochastic, seconds=seconds)
        previous = torch.cat(lasts)
        kept = pack_auxiliary(previous[0], steps=walk.up)
        return Noise(stochastic, previous, seconds, sum(tensor.nbytes for tensor in kept.values()))

    def _down(self, walk: Walk, noise: Noise) -> pd.DataFrame:
        judged = self.judged
        started = time.perf_counter()
        latents = torch.cat(self._side_by_side(lambda places: self._decode(walk, places, noise)))
        seconds = (time.perf_counter() - started) / len(judged.rows)
        found = self._compare(
            lambda places: judged.scans.pipeline.networks.expand(latents[places]),
            kind=walk.kind,
            against=[INPUT, AUTOENCODER],
        )
        columns: dict[str, object] = {"solver": walk.solver, "decode_seconds": seconds}
        for name, count in (
            ("encode_steps", walk.up),
            ("decode_steps", walk.down),
            ("network_calls", walk.calls),
        ):
            columns[name] = pd.array([count] * len(found), dtype="Int64")
        if walk.up is not None:
            places = found["place"].to_list()
            elements = noise.stochastic.double().flatten(1)
            error = (latents - judged.latents).abs().flatten(1).amax(1)
            columns |= {"latent_error": error[places].tolist(), "encode_seconds": noise.seconds}
            columns |= {"auxiliary_bytes": noise.auxiliary_bytes}
            for power, name in enumerate(MOMENTS, start=1):
                columns[name] = elements.pow(power).mean(1)[places].tolist()
        return found.assign(**columns)

    def _compare(
        self, render: Callable[[list[int]], Tensor], *, kind: str, against: Sequence[str]
    ) -> pd.DataFrame:
        """One row a scan, reference and region."""
        references = {INPUT: self.judged.volumes, AUTOENCODER: self.judged.plain}

        def measure(places: list[int]) -> pd.DataFrame:
            image = render(places)
            frames = [
                self._measure(places, image, references[name], inside=inside).assign(against=name)
                for name in against
                for inside in (False, True)
            ]
            return pd.concat([frame for frame in frames if len(frame)])

        return pd.concat(self._side_by_side(measure), ignore_index=True).assign(kind=kind)

    def _measure(self, places: list[int], image: Tensor, reference: Tensor, *, inside: bool) -> pd.DataFrame:
        """One row a scan; inside of the brain only those whose brain is known."""
        masks = {n: self.judged.brain[place] for n, place in enumerate(places)}
        known = {n: mask for n, mask in masks.items() if mask is not None}
        chosen = list(known if inside else masks)
        if not chosen:
            return pd.DataFrame()
        kept = [places[n] for n in chosen]
        brain = torch.stack(list(known.values())) if inside else None
        found = self.panel.measure(image[chosen], reference[kept], mask=brain)
        rows = self.judged.rows.iloc[kept]
        return pd.DataFrame(
            {
                "subject": list(rows["subject"]),
                "session": list(rows["session"]),
                "place": kept,
                "region": BRAIN if inside else WHOLE,
                **{name: values.tolist() for name, values in found.items()},
            }
        )

    def _side_by_side(self, compute: Callable[[list[int]], Result]) -> list[Result]:
        networks = self.judged.scans.pipeline.networks
        return side_by_side(compute, self.judged.batches, networks=networks, name="sweep")
