# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import base64
import io
import re

import numpy as np
from PIL import Image

from ldae.report.slice_viewer import EDGE, view_difference


def test_the_viewer_holds_all_that_it_needs() -> None:
    places = np.indices((16, 24, 16)).T - np.array([8, 12, 8])
    scan = (np.linalg.norm(places / np.array([6, 9, 6]), axis=-1).T < 1) * 0.8
    change = np.zeros((16, 24, 16))
    change[7:9, 11:13, 7:9] = 0.2
    view = view_difference(
        change, scan=scan, affine=np.diag([8.0, 8, 8, 1]), limit=0.2, title="t", caption="c", command="ldae x"
    )
    assert not re.search(r"https?://|<link|@import", view.html)
    sources = re.findall(r'src="([^"]{0,40})', view.html)
    assert len(sources) == 3  # scan, colours, change
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    background = base64.b64decode(re.search(r'src="data:image/png;base64,([^"]*)"', view.html)[1])
    with Image.open(io.BytesIO(background)) as sprite:
        assert sprite.width * sprite.height > (6 * 2 * 8 / EDGE) ** 2 * (9 * 2 * 8 / EDGE)
    assert len(view.html) < 2_000_000
    assert 0.4 < view.ratio < 0.6
