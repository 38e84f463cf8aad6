# SPDX-License-Identifier: Apache-2.0
"""Which anatomy each synthetic subject is warped from, and the rendering of many scans side by side."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from ldae.data.phantom_anatomy import Anatomy, label_anatomy, template_anatomy
from ldae.data.phantom_factors import Factors
from ldae.data.phantom_fields import Grid
from ldae.data.phantom_render import Rendering, oversampling, render

UNITS = 1000  # stored intensity of the template's maximum
Made = TypeVar("Made")


@dataclass(frozen=True)
class Plan:
    """Everything that a worker needs to render any scan of a cohort.

    Attributes:
        grid: The voxels of its scans.
        anatomies: Label maps that subjects are warped from; none: the template.
    """

    grid: Grid
    anatomies: tuple[Path, ...]

    def base(self, factors: Factors) -> Path | None:
        """The label map of a subject, None for the template."""
        return self.anatomies[int(factors.base * len(self.anatomies))] if self.anatomies else None


class Renderer:
    """Renders scans of one plan; an anatomy is prepared once, by whichever thread comes first."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._step = plan.grid.spacing / oversampling(plan.grid.spacing)
        self._lock = threading.Lock()
        self._held: dict[Path | None, Anatomy] = {}

    def each(
        self, use: Callable[[Factors, Rendering], Made], scans: Sequence[Factors], *, jobs: int
    ) -> Iterator[Made]:
        """What `use` makes of each scan's rendering, side by side, in the order of the scans."""

        def work(factors: Factors) -> Made:
            torch.set_num_threads(1)  # holds for the calling thread only
            with torch.inference_mode():
                anatomy = self._anatomy(self.plan.base(factors))
                return use(factors, render(factors, anatomy, grid=self.plan.grid))

        with _single_threaded(), _pool(jobs) as pool:
            yield from pool.map(work, scans)

    def _anatomy(self, base: Path | None) -> Anatomy:
        with self._lock:
            if base not in self._held:
                if len(self._held) > 1:  # scans come in order of anatomy: older ones are done with
                    self._held.pop(next(iter(self._held)))
                made = (
                    template_anatomy(step=self._step)
                    if base is None
                    else label_anatomy(base, step=self._step)
                )
                self._held[base] = made
            return self._held[base]


def stored_voxels(rendering: Rendering) -> NDArray[np.int16]:
    """The voxels [X, Y, Z] as a file of the cohort holds them."""
    scaled = np.rint(UNITS * rendering.voxels.numpy())
    return np.asarray(np.clip(scaled, 0, np.iinfo(np.int16).max), dtype=np.int16)


@contextmanager
def _pool(jobs: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that stop at an error or an interrupt, rather than after all the work that is queued."""
    pool = ThreadPoolExecutor(jobs)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _single_threaded() -> Iterator[None]:
    """One thread a tensor operation: the scans themselves run side by side."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
