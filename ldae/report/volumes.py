# SPDX-License-Identifier: Apache-2.0
"""Volumes side by side: arrays in, a matplotlib figure out."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from ldae.report.cuts import (
    COLOURS,
    PLANES,
    Kind,
    Panel,
    Volume,
    colour_limit,
    colour_range,
    cut,
    extent,
    head_box,
)
from ldae.report.figures import STYLE, WIDTH

MOST_TILE, GAP, TITLE_SPACE, BAR_SPACE = 1.9, 0.05, 0.24, 0.72  # inches
TITLE_SIZE = 8
BARS: dict[Kind, str] = {
    "difference": "difference",
    "spread": "standard deviation",
    "attribution": "share of the largest",
}


def volume_figure(
    panels: Sequence[Panel], *, spacing: Sequence[float] = (1, 1, 1), planes: Sequence[str] = PLANES
) -> Figure:
    """Volumes side by side, a row a plane, cut through the middle of the first one's head.

    Differences share one scale, which their colour bar tells; so do spreads.

    Args:
        panels: Volumes of one size.
        spacing: Edges of a voxel in mm.
        planes: Which planes, of "axial", "coronal", "sagittal".
    """
    box = head_box(panels[0].volume)
    limits = {kind: colour_limit([p.volume for p in panels if p.kind == kind]) for kind in BARS}
    bars = [kind for kind in BARS if any(panel.kind == kind for panel in panels)]
    tile = min((WIDTH - BAR_SPACE * len(bars)) / len(panels) - GAP, MOST_TILE)
    extents = [extent(plane=plane, box=box, spacing=spacing) for plane in planes]
    heights = [up / across * tile for across, up in extents]
    size = (
        len(panels) * (tile + GAP) + BAR_SPACE * len(bars),
        TITLE_SPACE + sum(heights) + GAP * len(planes),
    )
    with rc_context(STYLE):
        figure = Figure(figsize=size)
        shown: dict[Kind, AxesImage] = {}
        bottom = size[1] - TITLE_SPACE
        for plane, height in zip(planes, heights, strict=True):
            bottom -= height
            for column, panel in enumerate(panels):
                axis = _place(figure, column * (tile + GAP), bottom, width=tile, height=height)
                picture = cut(panel.volume, plane=plane, box=box)
                shown[panel.kind] = _show(axis, picture, panel.kind, limit=limits.get(panel.kind, 1))
                if plane == planes[0]:
                    axis.set_title(panel.title, fontsize=TITLE_SIZE, loc="center", pad=4)
            bottom -= GAP
        for number, kind in enumerate(bars):
            left = len(panels) * (tile + GAP) + number * BAR_SPACE + 0.08
            long = min(2.2, 0.8 * sum(heights))
            axis = _place(figure, left, (size[1] - TITLE_SPACE - long) / 2, width=0.09, height=long)
            _colour_bar(figure, shown[kind], axis, label=BARS[kind])
    return figure


def _place(figure: Figure, left: float, bottom: float, *, width: float, height: float) -> Axes:
    """Axes at a place in inches."""
    across, up = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / up, width / across, height / up))


def _colour_bar(figure: Figure, image: AxesImage, axis: Axes, *, label: str) -> None:
    bar = figure.colorbar(image, cax=axis)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=7, length=2)
    bar.set_label(label, fontsize=7.5)


def _show(axis: Axes, picture: Volume, kind: Kind, *, limit: float) -> AxesImage:
    low, high = colour_range(kind, limit=limit)
    axis.set_axis_off()
    return axis.imshow(
        picture,
        vmin=low,
        vmax=high,
        cmap=COLOURS[kind],
        origin="lower",
        aspect="auto",
        interpolation="bilinear",
    )
