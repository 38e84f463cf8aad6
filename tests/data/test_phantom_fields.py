# SPDX-License-Identifier: Apache-2.0
"""Smooth maps: closed forms, inverses and folding."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ldae.data.phantom_fields import (
    Grid,
    bspline_field,
    compose,
    exponential,
    field_of_divergence,
    jacobian,
    reduce,
    refine,
    sample,
)

GRID = Grid.centred((0.0, -17.0, 5.0), spacing=5.0, shape=(33, 41, 33))


def smooth_velocity(*, seed: int, millimetres: float) -> torch.Tensor:
    controls = torch.from_numpy(np.random.default_rng(seed).standard_normal((3, 9, 10, 9))).float()
    return millimetres * bspline_field(controls, spacing=30.0, grid=GRID)


def inner(field: torch.Tensor) -> torch.Tensor:
    return field[..., 5:-5, 5:-5, 5:-5]


def test_grid_is_centred_and_its_finer_form_covers_the_same_field_of_view() -> None:
    corners = GRID.affine @ np.array([[0, 32], [0, 40], [0, 32], [1, 1]])
    np.testing.assert_allclose(corners[:3].mean(1), [0, -17, 5])
    fine = GRID.finer(2)
    assert fine.shape == (66, 82, 66)
    edges = [
        (g.origin[0] - g.spacing / 2, g.origin[0] + (g.shape[0] - 0.5) * g.spacing) for g in (GRID, fine)
    ]
    np.testing.assert_allclose(edges[0], edges[1])


def test_sample_is_exact_on_linear_functions_and_agrees_with_refine() -> None:
    volume = (torch.tensor([0.3, -0.2, 0.5]).reshape(3, 1, 1, 1) * GRID.points).sum(0, keepdim=True)
    fine = Grid.centred((0.0, -17.0, 5.0), spacing=2.3, shape=(20, 22, 24))
    expected = (torch.tensor([0.3, -0.2, 0.5]).reshape(3, 1, 1, 1) * fine.points).sum(0, keepdim=True)
    torch.testing.assert_close(sample(volume, GRID, points=fine.points), expected, atol=1e-3, rtol=0)
    torch.testing.assert_close(refine(volume, GRID, onto=fine), expected, atol=1e-3, rtol=0)


def test_reduce_keeps_the_integral() -> None:
    fine = Grid.centred((0.0, 0.0, 0.0), spacing=1.0, shape=(40, 40, 40))
    coarse = Grid.centred((0.0, 0.0, 0.0), spacing=2.5, shape=(24, 24, 24))
    volume = torch.zeros(1, 40, 40, 40)
    volume[0, 12:27, 14:22, 11:30] = 1
    reduced = reduce(volume, fine, onto=coarse, sigma=1.5)
    assert float(reduced.sum()) * 2.5**3 == pytest.approx(float(volume.sum()), rel=5e-3)


def test_exponential_of_a_scaling_is_closed_form() -> None:
    rate = torch.tensor([0.2, -0.15, 0.1]).reshape(3, 1, 1, 1)
    relative = GRID.points - torch.tensor([0.0, -17.0, 5.0]).reshape(3, 1, 1, 1)
    displacement = exponential(rate * relative, GRID)
    torch.testing.assert_close(inner(displacement), inner(torch.expm1(rate) * relative), atol=0.2, rtol=0)
    volume = math.exp(0.15)
    torch.testing.assert_close(inner(jacobian(displacement, GRID)).mean().item(), volume, atol=0.01, rtol=0)


def test_exponential_of_the_negative_is_the_inverse() -> None:
    velocity = smooth_velocity(seed=3, millimetres=4.0)
    there, back = exponential(velocity, GRID), exponential(-velocity, GRID)
    assert there.abs().max() > 8
    residual = inner(compose(back, there, GRID))
    # a quarter of the 5 mm between the nodes that hold the map
    assert residual.square().sum(0).sqrt().max() < 1.25
    assert residual.square().sum(0).mean().sqrt() < 0.3


@pytest.mark.parametrize("seed", range(4))
def test_exponentials_do_not_fold_where_the_velocity_itself_would(seed: int) -> None:
    velocity = smooth_velocity(seed=seed, millimetres=12.0)
    assert jacobian(velocity, GRID).min() < 0
    assert jacobian(exponential(velocity, GRID), GRID).min() > 0


def test_jacobian_finds_a_fold_of_one_node() -> None:
    displacement = torch.zeros(3, 33, 41, 33)
    assert jacobian(displacement, GRID).min() == 1
    displacement[0, 16, 20, 16] = 6.0
    folded = jacobian(displacement, GRID) < 0
    assert set(map(tuple, folded.nonzero().tolist())) == {(16, y, z) for y in (19, 20) for z in (15, 16)}


def test_bspline_field_has_unit_variance_and_is_smooth() -> None:
    controls = torch.from_numpy(np.random.default_rng(0).standard_normal((60, 9, 10, 9))).float()
    field = bspline_field(controls, spacing=30.0, grid=GRID)
    assert float(field.std()) == pytest.approx(1, abs=0.06)
    assert float(torch.diff(field, dim=1).abs().max()) < 1.2


def test_field_of_divergence_has_that_divergence() -> None:
    spacing, shape = 3.0, (48, 56, 40)
    x, y, z = np.meshgrid(*((np.arange(n) - n / 2) * spacing for n in shape), indexing="ij")
    ball = np.exp(-(x**2 + y**2 + z**2) / (2 * 9.0**2))
    shell = np.exp(-(x**2 + y**2 + z**2) / (2 * 20.0**2))
    source = ball - shell * ball.sum() / shell.sum()
    field, divergence = field_of_divergence(source, spacing=spacing, sigma=4.0)
    measured = sum(np.gradient(field[axis], spacing, axis=axis) for axis in range(3))
    np.testing.assert_allclose(measured, divergence, atol=0.03)
    middle = field[0, :, 28, 20]
    assert middle[30] > 0 > middle[18]
    assert abs(middle[0]) < 0.02 * abs(middle).max()
