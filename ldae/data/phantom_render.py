# SPDX-License-Identifier: Apache-2.0
"""From the factors of a scan to its voxels: warp an anatomy, then take the picture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ldae.data.phantom_anatomy import Anatomy
from ldae.data.phantom_factors import Acquisition, Factors, generator
from ldae.data.phantom_fields import Grid, bspline_field, compose, exponential, jacobian, refine, sample
from ldae.data.phantom_growth import CENTRE, FIELD

STEP = 2.5  # mm; the anatomy is looked at on points no further apart, whatever the voxels
FLUID = 0.2  # intensity that counts as fully inside the brain, just below that of fluid
CONTROLS = 30.0  # mm between the identity field's control points
IDENTITY = 2.5  # mm, standard deviation of the identity field's components
HEAD = -0.05  # log scale of the average head against the template, whose brain is larger than most
HEAD_SEX = 0.012
HEAD_SPREAD = 0.02
HEAD_SHAPE = 0.012


@dataclass(frozen=True)
class Rendering:
    """A rendered scan.

    Attributes:
        voxels: [X, Y, Z] float32, brain-extracted, about 0..1 times the acquisition's scale.
        ventricle_ml: Volume of the lateral ventricles in this scan, ml.
        ventricle: [X, Y, Z] share of each voxel that is lateral ventricle.
    """

    voxels: Tensor
    ventricle_ml: float
    ventricle: Tensor


def oversampling(spacing: float) -> int:
    """Sample points along each edge of a voxel."""
    return max(1, math.ceil(spacing / STEP - 1e-6))


def identity_velocity(factors: Factors) -> Tensor:
    """The person: size and shape of the head, and a smooth random field, [3, X, Y, Z] on FIELD, mm."""
    rng = generator(factors.seed, factors.subject, "identity")
    z = rng.standard_normal(4)
    size = HEAD + HEAD_SEX * (1 if factors.sex == "M" else -1) + HEAD_SPREAD * z[0]
    stretch = torch.tensor(size + HEAD_SHAPE * (z[1:] - z[1:].mean()), dtype=torch.float32)
    counts = [math.ceil((n - 1) * FIELD.spacing / CONTROLS) + 3 for n in FIELD.shape]
    controls = torch.from_numpy(IDENTITY * rng.standard_normal((3, *counts))).float()
    relative = FIELD.points - torch.tensor(CENTRE).reshape(3, 1, 1, 1)
    field = bspline_field(controls, spacing=CONTROLS, grid=FIELD)
    field = field - field[:, 8:-8, 8:-8, 8:-8].mean(
        (1, 2, 3), keepdim=True
    )  # heads are aligned, as after registration
    return field + stretch.reshape(3, 1, 1, 1) * relative


def inverse_map(factors: Factors, anatomy: Anatomy) -> Tensor:
    """Displacement of the map from the scan's space back to the anatomy's, [3, X, Y, Z] on FIELD, mm."""
    rest = identity_velocity(factors) + factors.atrophy * anatomy.atrophy_velocity
    growth = anatomy.growth.inverse(anatomy.growth.stage(factors.ventricle_target))
    return compose(growth, exponential(-rest, FIELD), FIELD)


def render(factors: Factors, anatomy: Anatomy, *, grid: Grid) -> Rendering:
    """The scan of one subject at one visit.

    Args:
        factors: What to render.
        anatomy: The brain that it is warped from, prepared for `grid.spacing / oversampling`.
        grid: The scan's voxels.

    Raises:
        ArithmeticError: The map folds somewhere; the factors lie far outside of what the cohort draws.
    """
    inverse = inverse_map(factors, anatomy)
    smallest = float(jacobian(inverse, FIELD).amin())
    if smallest <= 0:
        raise ArithmeticError(f"the map of subject {factors.subject} folds: smallest Jacobian {smallest:.3g}")
    warped = _warp(anatomy, inverse, grid=grid)
    levels = (
        torch.tensor(factors.acquisition.contrast)[: len(warped) - 1] if len(warped) > 2 else torch.ones(1)
    )
    clean = torch.einsum("k,kxyz->xyz", levels, warped[:-1])
    millilitres = float(warped[-1].double().sum()) * grid.spacing**3 / 1000
    return Rendering(acquire(clean, factors=factors), millilitres, warped[-1])


def _warp(anatomy: Anatomy, inverse: Tensor, *, grid: Grid) -> Tensor:
    """Mean of the warped tissue classes and ventricles over each voxel, [K + 1, X, Y, Z]."""
    factor = oversampling(grid.spacing)
    fine = grid.finer(factor)
    points = (fine.points + refine(inverse, FIELD, onto=fine)).reshape(3, -1)
    cells = _cells(grid, factor)  # [voxels, points in a voxel]
    # most of the field of view is air: only voxels that come from the brain or near it are looked at
    reached = _near(anatomy, points[:, cells[:, 0]])
    channels = torch.cat([anatomy.image, anatomy.ventricle])
    values = sample(channels, anatomy.grid, points=points.index_select(1, cells[reached].reshape(-1)))
    warped = torch.zeros(len(channels), len(cells))
    warped[:, reached] = values.reshape(len(channels), -1, factor**3).mean(-1)
    return warped.reshape(-1, *grid.shape)


@lru_cache(maxsize=4)
def _cells(grid: Grid, factor: int) -> Tensor:
    """Indices of the finer grid's points in each voxel, [voxels, factor**3]."""
    x, y, z = grid.shape
    index = torch.arange(x * y * z * factor**3, dtype=torch.int32)
    cells = index.reshape(x, factor, y, factor, z, factor).permute(0, 2, 4, 1, 3, 5)
    return cells.reshape(x * y * z, factor**3)


def _near(anatomy: Anatomy, points: Tensor) -> Tensor:
    """Which of the points [3, P] lie in the anatomy's support, [P] of bool."""
    grid = anatomy.support_grid
    index = torch.zeros(points.shape[1], dtype=torch.int64)
    for along, origin, count in zip(points, grid.origin, grid.shape, strict=True):
        index = index * count + ((along - origin) / grid.spacing).round().clamp(0, count - 1).long()
    return anatomy.support.reshape(-1)[index]


def acquire(clean: Tensor, *, factors: Factors) -> Tensor:
    """Take the picture: contrast, resolution, bias field and noise; nothing here looks at the subject."""
    acquisition = factors.acquisition
    inside = (clean / FLUID).clamp(0, 1)
    image = _blur(clean.clamp(min=0) ** acquisition.gamma, sigma=acquisition.blur)
    rng = generator(factors.seed, factors.subject, "noise", visit=acquisition.visit)
    noise = torch.from_numpy(rng.standard_normal(clean.shape, dtype=np.float32))
    image = image * bias_field(acquisition, factors, shape=clean.shape) + acquisition.noise * inside * noise
    return (acquisition.scale * image).clamp(min=0)


def bias_field(acquisition: Acquisition, factors: Factors, *, shape: torch.Size) -> Tensor:
    """Smooth multiplicative field, 1 + polynomial of second degree, at most `bias` away from 1."""
    rng = generator(factors.seed, factors.subject, "bias", visit=acquisition.visit)
    x, y, z = (
        torch.linspace(-1, 1, n).reshape(tuple(np.roll([n, 1, 1], axis))) for axis, n in enumerate(shape)
    )
    a, b, c, ab, ac, bc, aa, bb, cc = (float(value) for value in rng.standard_normal(9))
    field = (a * x + aa * (x * x - 0.5)) + (b * y + bb * (y * y - 0.5)) + (c * z + cc * (z * z - 0.5))
    field = field + ab * x * y + ac * x * z + bc * y * z
    return 1 + acquisition.bias * field / field.abs().amax()


def _blur(image: Tensor, *, sigma: float) -> Tensor:
    """Three-tap smoothing along each axis, of this standard deviation in voxels (at most 0.7)."""
    share = sigma**2 / 2
    for axis in range(3):
        below = torch.cat([image.narrow(axis, 0, 1), image.narrow(axis, 0, image.shape[axis] - 1)], axis)
        above = torch.cat([image.narrow(axis, 1, image.shape[axis] - 1), image.narrow(axis, -1, 1)], axis)
        image = image + share * (below + above - 2 * image)
    return image
