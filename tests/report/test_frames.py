# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from ldae.report.cuts import Panel
from ldae.report.frames import FRAME_GAP, FRAME_WIDTH, colour_stops, draw_frame, encode_frame

BOX = ((0, 10), (0, 12), (0, 8))


def test_planes_share_one_scale_of_millimetres() -> None:
    bright = np.ones((10, 12, 8))
    frame = draw_frame([Panel("", 0.5 * bright)], box=BOX, spacing=(2, 2, 3), limit=1)
    scale = (FRAME_WIDTH - 2 * FRAME_GAP) / (20 + 20 + 24)
    assert frame.size == (FRAME_WIDTH, round(24 * scale))  # all are 24 mm high: 12 x 2, 8 x 3, 8 x 3
    pixels = np.asarray(frame)
    middle = pixels[frame.height // 2, :, 0]
    gaps = np.flatnonzero(middle == 255)
    np.testing.assert_allclose(gaps[0], 20 * scale, atol=1)
    np.testing.assert_allclose(len(gaps), 2 * FRAME_GAP, atol=2)


def test_the_front_is_above_and_brighter_is_red() -> None:
    change = np.zeros((10, 12, 8))
    change[:, 6:], change[:, :6] = 0.2, -0.2
    frame = np.asarray(draw_frame([Panel("", change, "difference")], box=BOX, spacing=(1, 1, 1), limit=0.2))
    axial = frame[:, : round(10 * (FRAME_WIDTH - 2 * FRAME_GAP) / 32)]
    front, back = axial[5, 50].astype(int), axial[-5, 50].astype(int)
    assert front[0] > front[2] + 50
    assert back[2] > back[0] + 50


def test_panels_stand_below_each_other() -> None:
    panels = [Panel("", np.ones((10, 12, 8))), Panel("", np.zeros((10, 12, 8)), "difference")]
    one = draw_frame(panels[:1], box=BOX, spacing=(1, 1, 1), limit=1)
    two = draw_frame(panels, box=BOX, spacing=(1, 1, 1), limit=1)
    assert two.height == 2 * one.height + FRAME_GAP
    np.testing.assert_array_equal(np.asarray(two)[: one.height], np.asarray(one))


def test_frames_are_embedded() -> None:
    frame = draw_frame([Panel("", np.ones((10, 12, 8)))], box=BOX, spacing=(1, 1, 1), limit=1)
    kind, data = encode_frame(frame).split(",")
    assert kind == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as again:
        np.testing.assert_array_equal(np.asarray(again), np.asarray(frame))


def test_scale_runs_from_blue_over_light_to_red() -> None:
    stops = colour_stops("difference")
    assert stops[0][1:3] < stops[0][5:7]
    assert stops[len(stops) // 2] > "#f0f0f0"
    assert stops[-1][1:3] > stops[-1][5:7]
