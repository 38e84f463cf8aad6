# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import i0e, i1e
from torch.nn import functional

from ldae.errors import InputError
from ldae.evaluation.corruptions import (
    CORRUPTIONS,
    LADINE_CORRUPTIONS,
    Corruption,
    ghosting,
    low_resolution,
    motion,
    scan_generator,
)
from ldae.evaluation.outside import FAR, NEAR, OUTSIDE, turned
from ldae.evaluation.shifted_codes import corrupt

SHAPE = (1, 16, 20, 12)
BY_NAME = {one.name: one for one in CORRUPTIONS}
TORCHIO = {"bias_field", "motion", "ghosting", "spike"}


@pytest.fixture(scope="module")
def scan() -> torch.Tensor:
    """A soft ball, brightest at one end."""
    places = torch.stack(torch.meshgrid(*(torch.linspace(-1, 1, side) for side in SHAPE[1:]), indexing="ij"))
    ball = torch.sigmoid(12 * (0.8 - places.norm(dim=0))) * (0.6 + 0.3 * places[0])
    return ball[None].clamp(0, 1)


def run(name: str, scan: torch.Tensor, grade: float, seed: int = 0) -> torch.Tensor:
    if name in TORCHIO:
        pytest.importorskip("torchio")
    return BY_NAME[name](scan, grade=grade, generator=scan_generator(seed, name))


def test_those_of_ladine_are_there_as_published() -> None:
    assert [BY_NAME[name].grades[-1] for name in LADINE_CORRUPTIONS] == [1.0, 8.0, 0.7]


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda one: one.name)
def test_no_grade_is_no_change_and_the_worst_changes_most(corruption: Corruption, scan: torch.Tensor) -> None:
    name = corruption.name
    assert run(name, scan, corruption.none) is scan
    before = scan.clone()
    far = [(run(name, scan, grade) - scan).square().mean() for grade in corruption.grades]
    assert far == sorted(far)
    assert far[0] > 0
    assert torch.equal(scan, before)


@pytest.mark.parametrize("name", sorted(TORCHIO))
def test_the_smallest_grade_of_what_torchio_does_is_next_to_none(name: str, scan: torch.Tensor) -> None:
    assert (run(name, scan, 1e-6) - scan).abs().max() < 1e-3


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda one: one.name)
def test_what_is_drawn_depends_on_the_seed_alone(corruption: Corruption, scan: torch.Tensor) -> None:
    name, grade = corruption.name, corruption.grades[-1]
    first = run(name, scan, grade)
    assert torch.equal(first, run(name, scan, grade))
    assert corruption.drawn != torch.equal(first, run(name, scan, grade, seed=1))


def test_gaussian_noise_has_the_standard_deviation_it_says_and_is_not_clipped(scan: torch.Tensor) -> None:
    large = torch.full((1, 60, 60, 60), 0.5)
    noise = run("gaussian", large, 0.2) - large
    assert noise.std() == pytest.approx(0.2, rel=0.01)
    assert noise.mean() == pytest.approx(0, abs=2e-3)
    assert run("gaussian", scan, 1.0).min() < -1


@pytest.mark.parametrize("level", [0.0, 0.15, 0.8])
def test_rician_noise_has_its_analytic_mean(level: float) -> None:
    sigma = 0.2
    x = level**2 / (2 * sigma**2)
    # sigma sqrt(pi / 2) L_1/2(-x), with the Bessel functions scaled by exp(-x / 2)
    mean = sigma * np.sqrt(np.pi / 2) * ((1 + x) * i0e(x / 2) + x * i1e(x / 2))
    noisy = run("rician", torch.full((1, 80, 80, 80), level), sigma)
    assert noisy.mean() == pytest.approx(mean, abs=1.5e-3)
    assert noisy.square().mean() == pytest.approx(level**2 + 2 * sigma**2, rel=0.01)
    assert noisy.min() >= 0


def test_low_resolution_is_linear_both_ways(scan: torch.Tensor) -> None:
    small = functional.interpolate(scan[None], size=(8, 10, 6), mode="trilinear", align_corners=False)
    # Halved by linear interpolation between pixel centres, a voxel is the mean of the eight in it.
    torch.testing.assert_close(small, functional.avg_pool3d(scan[None], 2))
    back = functional.interpolate(small, size=SHAPE[1:], mode="trilinear", align_corners=False)[0]
    torch.testing.assert_close(run("low_resolution", scan, 2), back)
    ramp = torch.arange(16.0)[:, None, None].expand(16, 20, 12)[None] / 16
    torch.testing.assert_close(low_resolution(ramp, 4, scan_generator(0))[:, 2:-2], ramp[:, 2:-2])


def test_thick_slices_leave_a_scan_alone_that_does_not_change_from_head_to_foot(scan: torch.Tensor) -> None:
    flat = scan[..., 6:7].expand(SHAPE).contiguous()
    torch.testing.assert_close(run("thick_slices", flat, 4), flat)
    small = functional.avg_pool3d(scan[None], (1, 1, 2))
    back = functional.interpolate(small, size=SHAPE[1:], mode="trilinear", align_corners=False)[0]
    torch.testing.assert_close(run("thick_slices", scan, 2), back)


def test_contrast_and_gamma_are_what_they_say(scan: torch.Tensor) -> None:
    weak = run("contrast", scan, 0.7)
    assert weak.mean() == pytest.approx(float(scan.mean()), abs=1e-6)
    assert weak.std() == pytest.approx(0.7 * float(scan.std()), rel=1e-5)
    torch.testing.assert_close(run("gamma", scan, 2.0), scan**2)


def test_what_mri_does_ends_in_range_and_still_shows_the_brain(scan: torch.Tensor) -> None:
    for name in TORCHIO:
        changed = run(name, scan, BY_NAME[name].grades[-1])
        assert changed.shape == scan.shape
        assert 0 <= changed.min() <= changed.max() <= 1
        assert np.corrcoef(changed.flatten(), scan.flatten())[0, 1] > 0.5, name


def test_ghosts_are_copies_along_one_axis(scan: torch.Tensor) -> None:
    pytest.importorskip("torchio")
    bar = torch.zeros(1, 12, 32, 12)
    bar[:, 4:8, 14:18, 4:8] = 1.0
    ghosts = ghosting(bar, 1.0, scan_generator(0)) - bar
    outside = ghosts.abs().amax((0, 1, 3)) > 0.02
    assert outside[:10].any()
    assert ghosts[:, :3].abs().max() < 1e-4


def test_a_scan_gets_the_same_whatever_batch_it_comes_in(scan: torch.Tensor) -> None:
    volumes = torch.stack([scan, scan.flip(1), scan])
    rows = pd.DataFrame({"subject": ["a", "b", "c"], "session": ["1", "1", "2"]})
    settings = {"corruption": BY_NAME["gaussian"], "grade": 0.1, "seed": 3}
    together = corrupt(volumes, rows, **settings)
    alone = corrupt(volumes[2:], rows.iloc[2:], **settings)
    assert torch.equal(together[2:], alone)
    assert not torch.equal(together[0], together[2])
    # A higher grade is more of the same noise.
    more = corrupt(volumes, rows, **{**settings, "grade": 0.2})
    torch.testing.assert_close(more - volumes, 2 * (together - volumes), atol=1e-6, rtol=1e-4)


def test_scans_that_no_head_was_made_for(scan: torch.Tensor) -> None:
    pytest.importorskip("torchio")
    assert {*NEAR, *FAR} >= set(OUTSIDE)
    for name, replace in OUTSIDE.items():
        made = replace(scan, scan_generator(0, name))
        assert made.shape == scan.shape
        assert 0 <= made.min() <= made.max() <= 1, name
    assert OUTSIDE["blank"](scan, scan_generator(0)).max() == 0
    inverted = OUTSIDE["inverted_contrast"](scan, scan_generator(0))
    inside = scan > 0.5
    torch.testing.assert_close(inverted[inside], 1 - scan[inside])
    cube = torch.rand(1, 8, 8, 8)
    assert sorted(turned(cube, scan_generator(0)).flatten().tolist()) == sorted(cube.flatten().tolist())


def test_faults_are_told_in_a_sentence(scan: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"scan must be a float tensor \[1, X, Y, Z\], got \(16, 20, 12\)"):
        run("gaussian", scan[0], 0.1)
    with pytest.raises(InputError, match="grade of gaussian must be finite, got nan"):
        run("gaussian", scan, float("nan"))
    monkeypatch.setitem(sys.modules, "torchio", None)
    with pytest.raises(InputError, match=r"needs torchio. Install it with: pip install 'ldae\[robustness\]'"):
        motion(scan, 1.0, scan_generator(0))
