# SPDX-License-Identifier: Apache-2.0
"""Frames of a series of volumes, small and without lettering: volumes in, pictures out."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex
from PIL import Image

from ldae.report.cuts import COLOURS, PLANES, Box, Kind, Panel, Volume, colour_range, cut, extent

FRAME_WIDTH = 660  # pixels
FRAME_GAP = 6
STOPS = 11


def draw_frame(panels: Sequence[Panel], *, box: Box, spacing: Sequence[float], limit: float) -> Image.Image:
    """Volumes below each other, their three planes side by side and on one scale of mm.

    Args:
        panels: Volumes of one size; their titles are not drawn.
        box: Part of the volumes that is shown.
        spacing: Edges of a voxel in mm.
        limit: Value at the end of the colour scale of differences.
    """
    extents = {plane: extent(plane=plane, box=box, spacing=spacing) for plane in PLANES}
    across = sum(width for width, _ in extents.values())
    scale = (FRAME_WIDTH - FRAME_GAP * (len(PLANES) - 1)) / across  # pixels a mm
    row = round(scale * max(height for _, height in extents.values()))
    frame = Image.new("RGB", (FRAME_WIDTH, len(panels) * (row + FRAME_GAP) - FRAME_GAP), "white")
    for number, panel in enumerate(panels):
        left = 0
        for plane, (width, height) in extents.items():
            size = round(scale * width), round(scale * height)
            tile = _tile(cut(panel.volume, plane=plane, box=box), panel.kind, size=size, limit=limit)
            frame.paste(tile, (left, number * (row + FRAME_GAP) + (row - size[1]) // 2))
            left += size[0] + FRAME_GAP
    return frame


def _tile(picture: Volume, kind: Kind, *, size: tuple[int, int], limit: float) -> Image.Image:
    values = Image.fromarray(np.ascontiguousarray(picture[::-1], dtype=np.float32))
    smooth = np.asarray(values.resize(size, Image.Resampling.BICUBIC))
    low, high = colour_range(kind, limit=limit)
    colours = colormaps[COLOURS[kind]](np.clip((smooth - low) / (high - low), 0, 1), bytes=True)
    return Image.fromarray(np.ascontiguousarray(colours[..., :3]))


def encode_frame(frame: Image.Image) -> str:
    """A frame as a data URI of a PNG."""
    stream = io.BytesIO()
    frame.save(stream, format="PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def colour_stops(kind: Kind) -> tuple[str, ...]:
    """Colours of a scale from its low to its high end, #rrggbb."""
    return tuple(to_hex(colormaps[COLOURS[kind]](place)) for place in np.linspace(0, 1, STOPS))
