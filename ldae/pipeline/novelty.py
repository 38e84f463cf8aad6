# SPDX-License-Identifier: Apache-2.0
"""How far a scan lies outside of what the pipeline was trained on. It informs, it never refuses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ldae.pipeline.networks import Networks
from ldae.pipeline.statistics import CODE_DISTANCE, TrainingStatistics

RECONSTRUCTION_ERROR = "reconstruction error"
LATENT_SIZE = "latent RMS"
MEAN_INTENSITY = "mean intensity"
# Being nearer to the training scans than usual, or easier to compress, is nothing to warn of.
ONLY_ABOVE = (CODE_DISTANCE, RECONSTRUCTION_ERROR)


@dataclass(frozen=True)
class Measure:
    """One number of a scan and the range of 99 % of the training scans."""

    name: str
    value: float
    low: float
    high: float

    @property
    def excess(self) -> float:
        """How far the value lies beyond the range, in lengths of the range; 0 inside."""
        beyond = self.value - self.high
        if self.name not in ONLY_ABOVE:
            beyond = max(beyond, self.low - self.value)
        return max(0.0, beyond) / max(self.high - self.low, 1e-12)

    def __str__(self) -> str:
        return f"{self.name} {self.value:.3g}, training scans {self.low:.3g}..{self.high:.3g} (99 %)"


@dataclass(frozen=True)
class Novelty:
    """Measures of one scan against the training scans; the code's distance is the first."""

    measures: tuple[Measure, ...]

    @property
    def inside(self) -> bool:
        """Whether every measure lies within the range of the training scans."""
        return all(measure.excess == 0 for measure in self.measures)

    @property
    def verdict(self) -> str:
        """One sentence: the code's distance, whatever else is unusual, and what follows."""
        worst = max(measure.excess for measure in self.measures)
        place = "within" if worst == 0 else "outside" if worst < 1 else "far outside"
        told = [self.measures[0], *(measure for measure in self.measures[1:] if measure.excess > 0)]
        return f"{'; '.join(map(str, told))}: {place} what this pipeline was trained on"

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        measures = {
            measure.name.replace(" ", "_").lower(): {
                "value": measure.value,
                "training": [measure.low, measure.high],
            }
            for measure in self.measures
        }
        return {"inside": self.inside, "verdict": self.verdict, "measures": measures}


def measure_scans(
    networks: Networks, volumes: Tensor, *, batch_size: int | None = None
) -> dict[str, NDArray[np.float64]]:
    """What is measured beside the code: scans [B, 1, X, Y, Z] in [0, 1] to numbers [B] by name.

    The latent's size is the root mean square of the normalised latent, about 1 for training scans; the
    reconstruction error that of the autoencoder, both roots taken per scan.
    """
    latents = networks.compress(volumes, batch_size=batch_size)
    error = networks.expand(latents, batch_size=batch_size) - volumes
    measured = {
        RECONSTRUCTION_ERROR: error.square().flatten(1).mean(1).sqrt(),
        LATENT_SIZE: latents.square().flatten(1).mean(1).sqrt(),
        MEAN_INTENSITY: volumes.flatten(1).mean(1),
    }
    return {name: values.double().numpy() for name, values in measured.items()}


def judge_scans(
    statistics: TrainingStatistics,
    codes: Tensor,
    *,
    measures: Mapping[str, NDArray[np.float64]] | None = None,
) -> list[Novelty]:
    """Compare codes [B, D], and measures [B] by name where there are some, with the training scans."""
    values = {CODE_DISTANCE: statistics.distance(codes.numpy()), **(measures or {})}
    return [
        Novelty(
            tuple(
                Measure(name, float(column[index]), *statistics.ranges[name])
                for name, column in values.items()
            )
        )
        for index in range(len(codes))
    ]
