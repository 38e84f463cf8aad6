# SPDX-License-Identifier: Apache-2.0
"""Scans of a pipeline side by side, for a notebook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from ldae.data.scan import DifferenceMap, Scan
from ldae.errors import InputError
from ldae.report.cuts import PLANES, Panel
from ldae.report.volumes import volume_figure


def scan_figure(
    shown: Mapping[str, Scan | DifferenceMap], *, planes: Sequence[str] = ("axial", "coronal")
) -> Figure:
    """Scans and difference maps on the pipeline's grid, each under its name, a row a plane.

    A map without negative values (the spread of variations) is coloured from 0, others around 0.

    Args:
        shown: What is shown, by title; of one size.
        planes: Which planes, of "axial", "coronal", "sagittal".

    Raises:
        InputError: Nothing to show, scans of different sizes, or an unknown plane.

    Example:
        >>> from ldae import LDAEPipeline
        >>> pipe = LDAEPipeline.from_pretrained("outputs/demo/pipeline")  # doctest: +SKIP
        >>> scan = pipe.read("sub-01_T1w.nii.gz")  # doctest: +SKIP
        >>> scan_figure({"input": scan, "both codes": pipe.reconstruct(scan)})  # doctest: +SKIP
    """
    sizes = {tuple(one.data.shape) for one in shown.values()}
    if len(sizes) != 1:
        raise InputError(f"Scans must be one or more of one size, got {len(shown)} of sizes {sorted(sizes)}.")
    unknown = [plane for plane in planes if plane not in PLANES]
    if unknown or not planes:
        raise InputError(f"planes must be among {', '.join(PLANES)}, got {list(planes)}.")
    first = next(iter(shown.values()))
    spec = first.spec if isinstance(first, Scan) else first.scan.spec
    return volume_figure(
        [_panel(title, one) for title, one in shown.items()], spacing=spec.spacing, planes=planes
    )


def _panel(title: str, shown: Scan | DifferenceMap) -> Panel:
    volume = shown.data[0].detach().cpu().numpy()
    if isinstance(shown, Scan):
        return Panel(title, volume)
    return Panel(title, volume, "difference" if (volume < 0).any() else "spread")
