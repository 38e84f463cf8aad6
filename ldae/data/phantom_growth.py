# SPDX-License-Identifier: Apache-2.0
"""The two directions in which age and disease move an anatomy: the ventricles grow, and the cortex shrinks.

Both are curl-free velocities with a wanted divergence: fluid expands, tissue takes it up. Growth of the
ventricles by a large factor is a chain of short flows, each built for the ventricles as the one before leaves
them: a single stationary flow would blow up their core a thousandfold and leave their walls behind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from ldae.data.phantom_fields import Grid, compose, exponential, field_of_divergence, refine, sample

CENTRE = (0.0, -17.0, 5.0)  # middle of the template's brain, MNI mm; every anatomy and output is centred here
FIELD = Grid.centred(CENTRE, spacing=5.0, shape=(33, 41, 33))
SOURCES = Grid.centred(CENTRE, spacing=3.0, shape=(64, 80, 64))
SIGMA = 4.0  # mm; smooths the sources, so that FIELD resolves the velocities
SHELL = 20.0  # mm; how far from the ventricles their growth is taken up
THIN = 0.15  # share of ventricle, in the smoothed map, below which a horn is left alone
RIM = 6.0  # mm; how far outside of the brain room is made for its shrinking
STRIDE = 0.5  # of the logarithm of the volume, to first order: one flow of the chain
LEAST, MOST = 4.0, 125.0  # ml; the chain reaches beyond these

Tissue = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Flow:
    """One link of the chain.

    Attributes:
        start: Stage at which the flow begins.
        before: [3, ...] displacement of the inverse of the chain up to there.
        velocity: [3, ...], mm per stage; runs forwards above stage 0, backwards below.
    """

    start: int
    before: Tensor
    velocity: Tensor


@dataclass(frozen=True)
class Growth:
    """Ventricles of any size between LEAST and MOST, along one path of invertible maps.

    Attributes:
        shrinking: Flows from stage 0, -1, ... downwards.
        growing: Flows from stage 0, 1, ... upwards.
        stages: Stages at which the volume is tabulated, rising.
        logarithms: log volume (ml) at these stages, rising.
    """

    shrinking: Sequence[Flow]
    growing: Sequence[Flow]
    stages: NDArray[np.float64]
    logarithms: NDArray[np.float64]

    def stage(self, millilitres: float) -> float:
        """The stage at which the anatomy's ventricles have this volume, within the tabulated range."""
        return float(np.interp(np.log(millilitres), self.logarithms, self.stages))

    def inverse(self, stage: float) -> Tensor:
        """Displacement of the map from the grown anatomy back to the original, [3, ...] on FIELD, mm."""
        flows = self.growing if stage >= 0 else self.shrinking
        flow = flows[min(int(abs(stage)), len(flows) - 1)]
        return compose(flow.before, exponential(-(stage - flow.start) * flow.velocity, FIELD), FIELD)


def ventricle_growth(tissue: Tissue, *, ventricle: Tensor, grid: Grid) -> Growth:
    """Build the chain for an anatomy.

    Args:
        tissue: Shares of ventricle and parenchyma on SOURCES.
        ventricle: [1, ...] share of ventricle at the resolution at which volumes are measured.
        grid: Grid of `ventricle`.
    """
    log_volume = {0.0: _log_volume(torch.zeros_like(FIELD.points), ventricle, grid)}
    chains: dict[int, list[Flow]] = {-1: [], 1: []}
    for sign, flows in chains.items():
        inverse = torch.zeros_like(FIELD.points)
        while np.log(LEAST) < log_volume[_end(flows, sign)] < np.log(MOST) and len(flows) < 12:
            stage = sign * len(flows)
            flow = Flow(stage, inverse, _ventricle_velocity(_warped(tissue, inverse)))
            flows.append(flow)
            for part in (0.5, 1.0):
                inverse = compose(flow.before, exponential(-sign * part * flow.velocity, FIELD), FIELD)
                log_volume[stage + sign * part] = _log_volume(inverse, ventricle, grid)
    stages = sorted(log_volume)
    table = np.maximum.accumulate([log_volume[stage] for stage in stages])
    return Growth(chains[-1], chains[1], np.array(stages), table)


def _end(flows: Sequence[Flow], sign: int) -> float:
    return float(sign * len(flows))


def _log_volume(inverse: Tensor, ventricle: Tensor, grid: Grid) -> float:
    points = Grid.centred(CENTRE, spacing=2.5, shape=(64, 72, 56))
    inside = sample(ventricle, grid, points=points.points + refine(inverse, FIELD, onto=points))
    return float(np.log(float(inside.double().sum()) * points.spacing**3 / 1000))


def _warped(tissue: Tissue, inverse: Tensor) -> Tissue:
    """Ventricle and parenchyma of the grown anatomy, on SOURCES."""
    names = ("ventricle", "parenchyma")
    stack = torch.from_numpy(np.stack([tissue[name] for name in names]))
    warped = sample(stack, SOURCES, points=SOURCES.points + refine(inverse, FIELD, onto=SOURCES))
    return dict(zip(names, warped.numpy(), strict=True))


def _ventricle_velocity(tissue: Tissue) -> Tensor:
    """Expansion inside the lateral ventricles, taken up by the tissue around them.

    Smoothing takes the strength out of thin horns; dividing by what it leaves there makes them keep up.
    """
    inside = tissue["ventricle"]
    even = inside / (ndimage.gaussian_filter(inside, SIGMA / SOURCES.spacing) + THIN)
    distance = ndimage.distance_transform_edt(inside < 0.5, sampling=SOURCES.spacing)
    shell = tissue["parenchyma"] * np.exp(-((distance / SHELL) ** 2))
    return _velocity(even - shell * (even.sum() / shell.sum()), inside, rate=STRIDE)


def atrophy_velocity(tissue: Tissue) -> Tensor:
    """Shrinking of cortex by 1 % at unit rate, of hippocampus by more; fluid in and around it expands.

    Args:
        tissue: Shares of ventricle, parenchyma, cortex, fluid and hippocampus on SOURCES.

    Returns:
        [3, ...] on FIELD, mm per percent.
    """
    shrinking = tissue["cortex"] + 1.5 * tissue["hippocampus"]
    brain = tissue["parenchyma"] + tissue["fluid"] + tissue["ventricle"] > 0.5
    beyond = ndimage.distance_transform_edt(~brain, sampling=SOURCES.spacing)
    growing = tissue["fluid"] + 0.5 * np.where(brain, 0.0, np.exp(-((beyond / RIM) ** 2)))
    return _velocity(growing * (shrinking.sum() / growing.sum()) - shrinking, tissue["cortex"], rate=-0.01)


def _velocity(source: NDArray[np.float64], where: NDArray[np.float32], *, rate: float) -> Tensor:
    """The velocity with this divergence, scaled to a mean of `rate` over the tissue `where`, on FIELD."""
    field, divergence = field_of_divergence(source, spacing=SOURCES.spacing, sigma=SIGMA)
    scale = rate / float((divergence * where).sum() / where.sum())
    return refine(torch.from_numpy(field * np.float32(scale)), SOURCES, onto=FIELD)
