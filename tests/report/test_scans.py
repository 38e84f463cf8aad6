# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch

from ldae.data.scan import DifferenceMap, Scan
from ldae.data.spec import PreprocessingSpec
from ldae.errors import InputError
from ldae.report.scans import scan_figure


def scan(size: tuple[int, int, int] = (8, 10, 8)) -> Scan:
    """A bright box in the dark, on a grid of 2 x 2 x 4 mm."""
    data = torch.zeros(1, *size)
    data[:, 2:6, 2:6, 2:6] = 1
    return Scan(data=data, affine=np.eye(4), spec=PreprocessingSpec(spacing=(2, 2, 4), size=size))


def test_scans_and_maps_are_shown_each_in_its_way() -> None:
    first = scan()
    second = first.like(first.data * 0.5)
    spread = DifferenceMap(first.data * 0.25, first)
    shown = {"a": first, "b": second, "b - a": DifferenceMap.between(second, first), "spread": spread}
    figure = scan_figure(shown)
    assert [axis.get_title() for axis in figure.axes[:4]] == list(shown)
    limits = [axis.images[0].get_clim() for axis in figure.axes[:4]]
    assert limits == [(0, 1), (0, 1), (-0.5, 0.5), (0, 0.25)]
    across, up = figure.get_size_inches()
    coronal = figure.axes[4].get_position()
    assert coronal.height * up / (coronal.width * across) == pytest.approx(2, rel=1e-6)


def test_what_cannot_be_shown_is_refused() -> None:
    with pytest.raises(InputError, match="of one size, got 0"):
        scan_figure({})
    with pytest.raises(InputError, match=r"of one size, got 2 of sizes .*8, 10, 8.*8, 10, 9"):
        scan_figure({"a": scan(), "b": scan((8, 10, 9))})
    with pytest.raises(InputError, match="planes must be among axial, coronal, sagittal, got"):
        scan_figure({"a": scan()}, planes=["transverse"])
