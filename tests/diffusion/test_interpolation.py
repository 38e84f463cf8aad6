# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest
import torch

from ldae.diffusion.interpolation import lerp, slerp


def test_quarter_circle() -> None:
    a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    for fraction in (0.0, 0.25, 0.5, 1.0):
        angle = fraction * math.pi / 2
        expected = torch.tensor([[math.cos(angle), math.sin(angle)]])
        torch.testing.assert_close(slerp(a, b, fraction=fraction), expected)


def test_each_scan_has_its_own_angle() -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(6, 3, 4, 5, 4, generator=generator)
    b = torch.randn(6, 3, 4, 5, 4, generator=generator)
    b[0], b[1] = a[0], -a[1]
    together = slerp(a, b, fraction=0.3)
    alone = torch.cat([slerp(a[i : i + 1], b[i : i + 1], fraction=0.3) for i in range(6)])
    torch.testing.assert_close(together, alone, rtol=0, atol=0)


def test_noise_keeps_its_length() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 8, 2000, generator=generator)
    assert slerp(a, b, fraction=0.5).std().item() == pytest.approx(1, abs=0.03)
    assert lerp(a, b, fraction=0.5).std().item() == pytest.approx(math.sqrt(0.5), abs=0.03)


@pytest.mark.parametrize("scale", [1.0, 1 + 1e-7, -1.0])
def test_parallel_and_antipodal_pairs_take_the_straight_line(scale: float) -> None:
    a = torch.randn(1, 50, generator=torch.Generator().manual_seed(0))
    mixed = slerp(a, scale * a, fraction=0.25)
    assert torch.isfinite(mixed).all()
    torch.testing.assert_close(mixed, lerp(a, scale * a, fraction=0.25), atol=1e-5, rtol=1e-5)


def test_zero_vectors_are_no_reason_for_nan() -> None:
    a, b = torch.zeros(2, 4), torch.ones(2, 4)
    torch.testing.assert_close(slerp(a, b, fraction=0.5), torch.full((2, 4), 0.5))
    torch.testing.assert_close(slerp(a, a, fraction=0.5), a)
