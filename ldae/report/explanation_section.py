# SPDX-License-Identifier: Apache-2.0
"""What makes a head say what it says: maps of one scan, and the slices of several."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ldae.evaluation.explained_scan import COUNTERFACTUAL, GRADIENTS, OCCLUSION
from ldae.evaluation.explanation import EXAMPLE, NAME, SLICES
from ldae.evaluation.record import SCANS, TABLE
from ldae.report.cuts import Panel, Volume
from ldae.report.elements import Element, make_picture
from ldae.report.figures import line_figure
from ldae.report.run import Run
from ldae.report.volumes import volume_figure

LARGEST = 99.5  # percentile of the sizes that a map is divided by
SHOWN = (GRADIENTS, OCCLUSION, COUNTERFACTUAL)


def explanation_pictures(run: Run) -> list[Element]:
    """Maps of the first explained scan, and how much the slices of all of them matter."""
    with np.load(run.run_dir / "evaluation" / NAME / EXAMPLE) as found:
        volumes = {name: found[name] for name in found.files}
    panels = [Panel("scan", volumes["scan"])]
    panels += [Panel(name, _relative(volumes[name]), "attribution") for name in SHOWN]
    first = run.table(NAME, SCANS).iloc[0]
    maps = make_picture(
        volume_figure(panels, spacing=run.scans.pipeline.spec.spacing),
        alt=f"Three planes of {first['subject']}: gradients, occlusion and counterfactual difference",
        caption=f"{first['subject']}, score {first['score']:.2f}, {first['score_baseline']:.2f} of the mean "
        "training scan that the first two maps compare with: orange raises the score, purple lowers it. The "
        f"counterfactual goes to {first['score_counterfactual']:.2f}: orange turns brighter, purple darker. "
        f"Each map is shown by its own largest. {_judged(run.table(NAME, TABLE))}",
        command=run.evaluation("explanation"),
    )
    table = run.table(NAME, SLICES)
    slices = table.assign(shapley=table["shapley"].abs()).groupby("slice")[["attention", "shapley"]].mean()
    shares = slices / slices.sum()
    lines = {"attention": shares["attention"], "Shapley value, sign aside": shares["shapley"]}
    plane = run.scans.pipeline.networks.encoder.config.plane
    weights = make_picture(
        line_figure({name: (share.index, share) for name, share in lines.items()}, x="slice", y="share"),
        alt="Share of attention and of Shapley values by slice",
        caption=f"{plane.capitalize()} slices, mean of {table['subject'].nunique()} scans. Attention says "
        "where the encoder looks, the Shapley value what of it the head uses.",
        command=run.evaluation("explanation"),
    )
    return [maps, weights]


def _relative(values: Volume) -> Volume:
    return values / max(float(np.percentile(np.abs(values), LARGEST)), 1e-12)


def _judged(table: pd.DataFrame) -> str:
    """How well each map finds the voxels that truly change, where that is known."""
    if "auc" not in table:
        return ""
    known = table.set_index("map")["auc"]
    found = ", ".join(f"{name} {known[name]:.2f}" for name in known.index)
    return f"AUC of finding the voxels that truly change, mean of all scans: {found}."
