# SPDX-License-Identifier: Apache-2.0
"""Cuts through volumes, and volumes side by side."""

from __future__ import annotations

import numpy as np
import pytest

from ldae.report.cuts import Panel, colour_limit, colour_range, cut, extent, head_box
from ldae.report.volumes import volume_figure


def ball(side: int = 20) -> np.ndarray:
    """A ball of radius 5 in a dark volume, with a bright voxel towards the front, on top."""
    places = np.indices((side, side + 4, side)).T - np.array([side / 2, side / 2, side / 2])
    volume = (np.linalg.norm(places, axis=-1).T < 5).astype(float) * 0.5
    volume[side // 2, side // 2 + 4, side // 2 + 2] = 1
    return volume


def test_head_is_found_with_a_margin() -> None:
    assert head_box(ball()) == ((4, 17), (4, 17), (4, 17))
    assert head_box(np.zeros((5, 6, 7))) == ((0, 5), (0, 6), (0, 7))


@pytest.mark.parametrize(("plane", "shape"), [("axial", (6, 5)), ("coronal", (7, 5)), ("sagittal", (7, 6))])
def test_cuts_have_the_third_axis_upwards(plane: str, shape: tuple[int, int]) -> None:
    volume = np.zeros((5, 6, 7))
    volume[:, :, 5:] += 1  # top
    volume[:, 4:, :] += 2  # front
    box = ((0, 5), (0, 6), (0, 7))
    picture = cut(volume, plane=plane, box=box)
    assert picture.shape == shape
    top, bottom = picture[-1].mean(), picture[0].mean()
    assert top > bottom


def test_extents_are_millimetres() -> None:
    box = ((2, 12), (0, 20), (5, 10))
    sizes = [extent(plane=plane, box=box, spacing=(1, 2, 3)) for plane in ("axial", "coronal", "sagittal")]
    assert sizes == [(10, 40), (10, 15), (40, 15)]


def test_scales_are_round_and_never_empty() -> None:
    assert colour_limit([np.full((4, 4, 4), 0.1234), np.full((4, 4, 4), -0.3)]) == 0.3
    assert colour_limit([np.zeros((4, 4, 4))]) == 0.02
    assert colour_range("difference", limit=0.3) == (-0.3, 0.3)
    assert colour_range("spread", limit=0.3) == (0, 0.3)


def test_every_panel_has_every_plane_and_differences_share_a_scale() -> None:
    volume = ball()
    panels = [
        Panel("input", volume),
        Panel("less", 0.1 * volume, "difference"),
        Panel("more", -0.3 * volume, "difference"),
        Panel("spread", 0.2 * volume, "spread"),
    ]
    figure = volume_figure(panels, spacing=(1, 1, 2))
    images = [axis.images[0] for axis in figure.axes if axis.images]
    assert len(images) == 4 * 3
    assert [axis.get_title() for axis in figure.axes[:4]] == ["input", "less", "more", "spread"]
    limits = {image.get_clim() for image in images}
    assert limits == {(0, 1), (-0.15, 0.15), (0, 0.1)}


def test_voxels_keep_their_proportions() -> None:
    figure = volume_figure([Panel("input", ball())], spacing=(1, 1, 2), planes=("axial", "coronal"))
    across, up = figure.get_size_inches()
    shapes = [axis.get_position() for axis in figure.axes]
    ratios = [place.height * up / (place.width * across) for place in shapes]
    np.testing.assert_allclose(ratios, [1, 2], rtol=1e-6)
