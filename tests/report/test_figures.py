# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import base64

import numpy as np
import pytest
from matplotlib.colors import to_hex

from ldae.report.figures import (
    BLUE,
    Panel,
    attention_figure,
    cut,
    encode_png,
    head_box,
    line_figure,
    probe_figure,
    target_curves,
    training_figure,
    volume_figure,
)


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


def test_png_is_embedded() -> None:
    uri = encode_png(volume_figure([Panel("input", ball())]))
    assert uri.startswith("data:image/png;base64,")
    assert base64.b64decode(uri.split(",")[1]).startswith(b"\x89PNG")


def test_curves_show_each_subject_and_the_mean() -> None:
    figure = target_curves([0.1, 0.5, 0.9], [[10, 20, 30], [30, 40, 50]], label="P(AD)")
    lines = figure.axes[0].lines
    assert len(lines) == 3
    np.testing.assert_allclose(lines[-1].get_ydata(), [20, 30, 40])
    assert to_hex(lines[0].get_color()) == BLUE


def test_roc_reaches_the_corner_of_a_perfect_score() -> None:
    figure = probe_figure([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9], auc=1, known=[1, 2], predicted=[1, 2], r2=1)
    curve = figure.axes[0].lines[1]
    assert (0, 1) in set(zip(curve.get_xdata(), curve.get_ydata(), strict=True))
    assert figure.axes[0].get_title(loc="left") == "AD against CN, AUC 1.000"


def test_lines_are_labelled() -> None:
    figure = line_figure({"own": ([0, 1], [1, 2]), "none": ([0, 1], [2, 3])}, x="t", y="error")
    assert [line.get_label() for line in figure.axes[0].lines] == ["own", "none"]
    stages = training_figure({"Stage 1": {"loss": ([0, 1], [1, 0.1])}, "Stage 2": {"loss": ([0, 1], [3, 2])}})
    assert [axis.get_title(loc="left") for axis in stages.axes] == ["Stage 1", "Stage 2"]
    assert stages.axes[0].get_yscale() == "log"


def test_even_attention_is_one() -> None:
    figure = attention_figure(np.full((3, 8), 1 / 8), np.zeros((8, 6)), plane="axial")
    np.testing.assert_allclose(figure.axes[1].lines[-1].get_xdata(), 1)
