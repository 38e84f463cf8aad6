# SPDX-License-Identifier: Apache-2.0
"""Smooth invertible maps of space: exponentials of stationary velocity fields on a regular grid.

A map is kept as its displacement u in mm: the point x goes to x + u(x), u trilinear between the grid's nodes.
Velocities are held the same way, [3, X, Y, Z]. exp(-v) is the inverse of exp(v) (Arsigny et al., MICCAI 2006,
"A log-Euclidean framework for statistics on diffeomorphisms").
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy.fft
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

# The first step of a flow is short where either holds; the map is then within about 0.02 voxel of the flow.
FIRST_STEP = 0.4  # voxels that it moves
FIRST_STRAIN = 0.25  # largest derivative of its displacement


@dataclass(frozen=True)
class Grid:
    """A regular grid along the axes of RAS world space.

    Attributes:
        origin: World coordinates of the first node, mm.
        spacing: Distance between nodes, mm, the same along all axes.
        shape: Nodes along x, y, z.
    """

    origin: tuple[float, float, float]
    spacing: float
    shape: tuple[int, int, int]

    @classmethod
    def centred(
        cls, centre: tuple[float, float, float], *, spacing: float, shape: tuple[int, int, int]
    ) -> Grid:
        """The grid whose field of view has its centre at `centre` (mm)."""
        x, y, z = (c - (n - 1) / 2 * spacing for c, n in zip(centre, shape, strict=True))
        return cls((x, y, z), spacing, shape)

    def finer(self, factor: int) -> Grid:
        """The grid of `factor`**3 times as many voxels over the same field of view."""
        step = self.spacing / factor
        x, y, z = (o - self.spacing / 2 + step / 2 for o in self.origin)
        return Grid((x, y, z), step, (self.shape[0] * factor, self.shape[1] * factor, self.shape[2] * factor))

    @property
    def affine(self) -> NDArray[np.float64]:
        """[4, 4], from node indices to RAS mm."""
        matrix = np.diag([self.spacing, self.spacing, self.spacing, 1.0])
        matrix[:3, 3] = self.origin
        return matrix

    @property
    def points(self) -> Tensor:
        """World coordinates of the nodes, [3, X, Y, Z], mm; shared between calls, not to be written to."""
        return _points(self)

    @property
    def axes(self) -> list[Tensor]:
        """World coordinates along x, y and z, mm."""
        return [o + self.spacing * torch.arange(n) for o, n in zip(self.origin, self.shape, strict=True)]


@lru_cache(maxsize=8)
def _points(grid: Grid) -> Tensor:
    return torch.stack(torch.meshgrid(*grid.axes, indexing="ij"))


def sample(volume: Tensor, grid: Grid, *, points: Tensor) -> Tensor:
    """Values at world points by trilinear interpolation; beyond the grid, the nearest border value.

    Args:
        volume: [C, X, Y, Z] on `grid`.
        grid: Where the volume's nodes lie.
        points: [3, ...], mm.

    Returns:
        [C, ...].
    """
    flat = points.reshape(3, -1)
    scale = 2 / (grid.spacing * (torch.tensor(grid.shape) - 1))
    offset = -1 - torch.tensor(grid.origin) * scale
    unit = torch.addcmul(offset[:, None], flat, scale[:, None]).flip(0).T[None, :, None, None]
    values = functional.grid_sample(volume[None], unit, padding_mode="border", align_corners=True)
    return values.reshape(volume.shape[0], *points.shape[1:])


def refine(field: Tensor, grid: Grid, *, onto: Grid) -> Tensor:
    """Trilinear interpolant of `field` [C, X, Y, Z] at the nodes of another grid; border values outside."""
    return _along_axes(field, _hats(grid, onto))


def reduce(field: Tensor, grid: Grid, *, onto: Grid, sigma: float) -> Tensor:
    """Gaussian means of `field` [C, X, Y, Z] around the nodes of a coarser grid; zero outside the field.

    Args:
        field: What to reduce.
        grid: Where its nodes lie.
        onto: Where the means are wanted.
        sigma: Standard deviation of the weights, mm, at least half of the field's spacing.
    """
    return _along_axes(field, _gaussians(grid, onto, sigma))


def _along_axes(field: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Multiply each axis of [C, X, Y, Z] by its matrix [out, in]."""
    for axis, matrix in enumerate(matrices, start=1):
        field = torch.tensordot(field, matrix, dims=([axis], [1])).movedim(-1, axis)
    return field.contiguous()


@lru_cache(maxsize=16)
def _hats(grid: Grid, onto: Grid) -> tuple[Tensor, ...]:
    """Weights of linear interpolation, [nodes of onto, nodes of grid] an axis."""
    matrices = []
    for origin, count, targets in zip(grid.origin, grid.shape, onto.axes, strict=True):
        position = ((targets.double() - origin) / grid.spacing).clamp(0, count - 1)
        hat = 1 - (position[:, None] - torch.arange(count, dtype=torch.float64)).abs()
        matrices.append(hat.clamp(min=0).float())
    return tuple(matrices)


def _gaussians(grid: Grid, onto: Grid, sigma: float) -> tuple[Tensor, ...]:
    """Weights of Gaussian means, the same layout."""
    matrices = []
    for nodes, targets in zip(grid.axes, onto.axes, strict=True):
        distance = (targets.double()[:, None] - nodes.double()) / sigma
        weights = torch.exp(-(distance**2) / 2) * grid.spacing / (sigma * math.sqrt(2 * math.pi))
        matrices.append(weights.float())
    return tuple(matrices)


def exponential(velocity: Tensor, grid: Grid) -> Tensor:
    """Displacement of exp(velocity), by scaling and squaring.

    The first step is the Taylor series of the flow to second order, v + (Dv)v / 2, so that few squarings do:
    each takes time and interpolates.

    Args:
        velocity: [3, X, Y, Z], mm.
        grid: Where its nodes lie.

    Returns:
        [3, X, Y, Z], mm.
    """
    slopes = torch.stack(torch.gradient(velocity, spacing=grid.spacing, dim=(1, 2, 3)))
    excess = min(
        float(velocity.abs().amax()) / grid.spacing / FIRST_STEP, float(slopes.abs().amax()) / FIRST_STRAIN
    )
    squarings = max(0, math.ceil(math.log2(max(excess, 1e-9))))
    step = velocity / 2**squarings
    displacement: Tensor = step + (step[:, None] * slopes).sum(0) / 2 ** (squarings + 1)
    for _ in range(squarings):
        displacement = compose(displacement, displacement, grid)
    return displacement


def compose(outer: Tensor, inner: Tensor, grid: Grid) -> Tensor:
    """Displacement of the map x -> outer(inner(x)), both [3, X, Y, Z] in mm on `grid`."""
    return inner + sample(outer, grid, points=grid.points + inner)


def jacobian(displacement: Tensor, grid: Grid) -> Tensor:
    """Smallest Jacobian determinant around each cell of the grid, [X-1, Y-1, Z-1].

    At a cell's eight corners, from the edges that meet there: at these corners the trilinear map takes the
    extremes of its partial derivatives, so a positive value everywhere means that no cell folds.
    """
    edges = [torch.diff(displacement, dim=axis + 1) / grid.spacing for axis in range(3)]
    for axis in range(3):
        edges[axis][axis] += 1
    corners = [
        _determinant([_at_corner(edge, axis, corner) for axis, edge in enumerate(edges)])
        for corner in range(8)
    ]
    return torch.stack(corners).amin(0)


def _at_corner(edge: Tensor, axis: int, corner: int) -> Tensor:
    """The edges along `axis` that touch the given corner (bit a: upper end along axis a) of each cell."""
    for other in range(3):
        if other != axis:
            edge = edge.narrow(other + 1, corner >> other & 1, edge.shape[other + 1] - 1)
    return edge


def _determinant(columns: list[Tensor]) -> Tensor:
    """Determinant of the matrices with these three columns, each [3, ...]."""
    a, b, c = columns
    return (
        a[0] * (b[1] * c[2] - b[2] * c[1])
        - a[1] * (b[0] * c[2] - b[2] * c[0])
        + a[2] * (b[0] * c[1] - b[1] * c[0])
    )


def bspline_field(controls: Tensor, *, spacing: float, grid: Grid) -> Tensor:
    """Cubic B-spline through a coarse lattice of control values, centred on the grid.

    Args:
        controls: [C, i, j, k].
        spacing: Distance between controls, mm.
        grid: Where the field is wanted.

    Returns:
        [C, X, Y, Z]; unit-variance independent controls give a unit-variance field, on average over space.
    """
    return _along_axes(controls, _splines(tuple(controls.shape[1:]), spacing, grid))


@lru_cache(maxsize=4)
def _splines(counts: tuple[int, ...], spacing: float, grid: Grid) -> tuple[Tensor, ...]:
    """Weights of the controls, [nodes of grid, controls] an axis, of unit mean square."""
    matrices = []
    for count, targets in zip(counts, grid.axes, strict=True):
        position = (targets.double() - targets.double().mean()) / spacing + (count - 1) / 2
        matrix = _cubic(position[:, None] - torch.arange(count, dtype=torch.float64))
        matrices.append((matrix / matrix.square().sum(1).mean().sqrt()).float())
    return tuple(matrices)


def _cubic(distance: Tensor) -> Tensor:
    """The cubic B-spline kernel."""
    d = distance.abs()
    return torch.where(d < 1, 2 / 3 - d**2 + d**3 / 2, (2 - d).clamp(min=0) ** 3 / 6)


def field_of_divergence(
    source: NDArray[np.float64], *, spacing: float, sigma: float
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """The curl-free velocity whose divergence is `source`, smoothed and made free of net flux.

    Solves Poisson's equation by Fourier transform on the periodic box; where the sources lie well inside and
    add up to nothing, what crosses the box's faces is negligible.

    Args:
        source: [X, Y, Z], wanted rate of local expansion, per unit of the flow's parameter.
        spacing: mm between voxels.
        sigma: Standard deviation of the Gaussian that smooths the source, mm.

    Returns:
        [3, X, Y, Z] velocities, mm per unit, and their divergence, the smoothed source, [X, Y, Z].
    """
    spectrum = scipy.fft.rfftn(source - source.mean())
    frequencies = [
        2 * np.pi * (np.fft.rfftfreq if axis == 2 else np.fft.fftfreq)(count, spacing)
        for axis, count in enumerate(source.shape)
    ]
    kx, ky, kz = np.meshgrid(*frequencies, indexing="ij", sparse=True)
    squared = kx**2 + ky**2 + kz**2
    squared[0, 0, 0] = 1
    smoothed = spectrum * np.exp(-squared * sigma**2 / 2)
    potential = -smoothed / squared
    parts = [scipy.fft.irfftn(1j * k * potential, s=source.shape) for k in (kx, ky, kz)]
    return np.stack(parts).astype(np.float32), scipy.fft.irfftn(smoothed, s=source.shape)
