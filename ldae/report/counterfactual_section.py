# SPDX-License-Identifier: Apache-2.0
"""The section on counterfactuals: the series with its slider, what the heads say, and what changed."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ldae.data.artefact import read_json
from ldae.errors import InputError
from ldae.evaluation.counterfactual import TRUTH
from ldae.evaluation.material import first_visits
from ldae.evaluation.record import RESULT, SCANS
from ldae.evaluation.ventricles import VentricleEstimator
from ldae.report.cuts import Panel, colour_limit, head_box
from ldae.report.elements import Element, Frame, Picture, Series, Table, View, make_picture
from ldae.report.figures import target_curves
from ldae.report.frames import colour_stops, draw_frame, encode_frame
from ldae.report.renderings import Job
from ldae.report.run import Run, scan_name
from ldae.report.slice_viewer import view_difference
from ldae.report.tables import Column, make_table
from ldae.report.volumes import volume_figure

logger = logging.getLogger(__name__)

RULER_SCANS = 300  # training scans that the measure learns from: enough for a label, and quick


@dataclass(frozen=True)
class Moved:
    """A scan's counterfactuals, in the order of their targets.

    Attributes:
        run: The run.
        job: What the verb wrote.
        source: The scan.
        ruler: What measures ventricles; None where no volumes are known.
    """

    run: Run
    job: Job
    source: Path
    ruler: VentricleEstimator | None

    @cached_property
    def outputs(self) -> list[dict[str, Any]]:
        """What the verb tells of each."""
        return sorted(self.job.of(self.source), key=lambda output: output["Target"])

    @cached_property
    def scans(self) -> list[NDArray[np.float32]]:
        """The counterfactuals."""
        return [self.run.viewer.rendered(output["path"], like=self.source) for output in self.outputs]

    @cached_property
    def differences(self) -> list[NDArray[np.float32]]:
        """What each move changed."""
        files = [self.job.difference(output) for output in self.outputs]
        return [self.run.viewer.map(file, like=self.source) for file in files]

    @cached_property
    def limit(self) -> float:
        """End of the colour scale of the differences."""
        return colour_limit(self.differences)

    @cached_property
    def volumes(self) -> list[float]:
        """Ventricle volumes measured in the counterfactuals, ml; not a number where nothing can."""
        return [self._measured(Path(output["path"])) for output in self.outputs]

    @property
    def own_volume(self) -> float:
        """Ventricle volume measured in the scan itself, ml."""
        return self._measured(self.source)

    def _measured(self, path: Path) -> float:
        if self.ruler is None:
            return float("nan")
        voxels = self.run.viewer.pipeline.read(path).data.numpy()
        return float(self.ruler.predict(voxels)[0])

    @property
    def farthest(self) -> int:
        """Place of the counterfactual that was moved the most."""
        return int(np.argmax([abs(output["Step"]) for output in self.outputs]))

    @property
    def word(self) -> str:
        """What the head tells: P(AD), or the name of its folder."""
        of = self.outputs[0]["TargetClass"]
        return f"P({of})" if of else Path(self.outputs[0]["Head"]).name

    @property
    def before(self) -> float:
        """What the head says of the scan."""
        return float(self.outputs[0]["HeadBefore"])


def counterfactual_elements(run: Run) -> list[Element]:
    """The same brain, had the head said otherwise."""
    job, ruler = run.jobs["manipulate"], fit_ruler(run)
    elements: list[Element] = []
    for source in job.sources:
        moved = Moved(run, job, source, ruler)
        elements += [_series(moved), _said(moved), _difference_maps(moved), _view(moved)]
    return elements


def fit_ruler(run: Run) -> VentricleEstimator | None:
    """What measures ventricles, where the cohort tells enough volumes to learn from."""
    if TRUTH not in run.scans.frame.columns:
        return None
    known = run.scans.part("train").dropna(subset=[TRUTH])
    rows = first_visits(known, limit=RULER_SCANS)
    try:
        return VentricleEstimator().fit(run.scans.maps(rows), rows[TRUTH])
    except InputError as error:
        logger.warning("Ventricles are not measured for the page: %s", error)
        return None


def _series(moved: Moved) -> Series:
    """All counterfactuals and, in its place among them, the scan that was not moved."""
    box = head_box(moved.run.viewer.source(moved.source))
    spacing = moved.run.viewer.spacing(moved.source)
    frames = []
    for output, scan, difference, volume in zip(
        moved.outputs, moved.scans, moved.differences, moved.volumes, strict=True
    ):
        panels = [Panel("", scan), Panel("", difference, "difference")]
        picture = draw_frame(panels, box=box, spacing=spacing, limit=moved.limit)
        frames.append(Frame(encode_frame(picture), _label(moved, output, volume), f"{output['Target']:g}"))
    place = sum(output["HeadAfter"] < moved.before for output in moved.outputs)
    still = moved.scans[0] - moved.differences[0]
    picture = draw_frame(
        [Panel("", still), Panel("", np.zeros_like(still), "difference")],
        box=box,
        spacing=spacing,
        limit=moved.limit,
    )
    label = f"Not moved (reconstruction): the head says {moved.word} = {moved.before:.2f}"
    label += f", ventricles {moved.own_volume:.1f} ml as measured in the scan" if moved.ruler else ""
    frames.insert(place, Frame(encode_frame(picture), label, f"{moved.before:.2f}"))
    return Series(
        frames=frames,
        start=moved.farthest + (moved.farthest >= place),
        name=moved.word,
        colours=colour_stops("difference"),
        limit=moved.limit,
        caption=(
            f"{scan_name(moved.run, moved.source)}: axial, coronal and sagittal cuts (above), and what the "
            "move changed (below): counterfactual minus reconstruction, in shares of the scan's intensity "
            "range, red brighter, blue darker."
        ),
        command=moved.job.command(moved.source),
    )


def _label(moved: Moved, output: dict[str, Any], volume: float) -> str:
    text = f"Target {moved.word} = {output['Target']:g}: the head says {output['HeadAfter']:.2f}"
    return text if np.isnan(volume) else f"{text}, ventricles {volume:.1f} ml as measured"


def _said(moved: Moved) -> Table:
    """What the heads say before and after each move, those that were held beside the one that moved."""
    rows = [
        {"target": output["Target"], "after": output["HeadAfter"], "step": output["Step"], "ml": volume}
        | {"inside": "yes" if output["SupportedByTraining"] else "no"}
        | {
            f"{place}-{name}-{when}": held[when][name]
            for place, held in enumerate(output["Hold"])
            for name in held["Before"]
            for when in ("Before", "After")
        }
        for output, volume in zip(moved.outputs, moved.volumes, strict=True)
    ]
    first = moved.outputs[0]
    held = [
        Column(f"{place}-{name}-{when}", f"{_held_word(one['Name'], name)} {when.lower()}", ".2f")
        for place, one in enumerate(first["Hold"])
        for name in one["Before"]
        for when in ("Before", "After")
    ]
    columns = [
        Column("target", f"target {moved.word}", ".2f"),
        Column("after", f"{moved.word} after", ".2f"),
        Column("step", "step, SD of codes", ".2f"),
        *held,
        *([] if moved.ruler is None else [Column("ml", "ventricles, ml", ".1f")]),
        Column("inside", "within training"),
    ]
    return make_table(
        pd.DataFrame(rows),
        columns,
        caption=(
            f"What the heads say of the moved codes; {moved.word} before: {moved.before:.2f}. {_held(first)}"
        ),
        command=moved.job.command(moved.source),
    )


def _held_word(head: str, name: str) -> str:
    return head if head == name else f"{head}: P({name})"


def _held(output: dict[str, Any]) -> str:
    if not output["Hold"]:
        return "Nothing was held."
    names = ", ".join(one["Name"] for one in output["Hold"])
    kept = output["DirectionKept"]
    return f"Held: {names}; {100 * kept:.0f} % of the direction is left."


def _difference_maps(moved: Moved) -> Picture:
    panels = [Panel(f"input, {moved.word} {moved.before:.2f}", moved.run.viewer.source(moved.source))]
    panels += [
        Panel(f"{moved.word} {output['Target']:g}", difference, "difference")
        for output, difference in zip(moved.outputs, moved.differences, strict=True)
    ]
    name = scan_name(moved.run, moved.source)
    return make_picture(
        volume_figure(panels, spacing=moved.run.viewer.spacing(moved.source)),
        alt=f"{name}: what changes at {len(moved.outputs)} values of {moved.word}, in three planes",
        caption=(
            f"{name}: difference maps of the same series on one scale. "
            f"At the last target: {moved.outputs[-1]['Verdict']}."
        ),
        command=moved.job.command(moved.source),
    )


def _view(moved: Moved) -> View:
    """The difference that went farthest, to walk through."""
    far = moved.farthest
    target = f"{moved.word} = {moved.outputs[far]['Target']:g}"
    return view_difference(
        moved.differences[far],
        scan=moved.run.viewer.source(moved.source),
        affine=moved.run.viewer.grid(moved.source).affine,
        limit=moved.limit,
        title=f"Difference at target {target}",
        caption=(
            f"The change at target {target} over the scan, to walk through: a click goes there. Changes "
            "below a quarter of the scale are left out."
        ),
        command=moved.job.command(moved.source),
    )


def volume_curves(run: Run) -> Picture:
    """Measured ventricle volumes over the wanted probability, a line a subject."""
    table = run.table("counterfactual", SCANS)
    wide = table.pivot(index="subject", columns="target", values="ventricle_ml")
    values = read_json(run.run_dir / "evaluation" / "counterfactual" / RESULT)["values"]
    spearman = values["counterfactual_spearman"]
    return make_picture(
        target_curves(list(wide.columns), wide.to_numpy(), label="P(AD)"),
        alt="Measured ventricle volume against wanted probability of AD, a line for each test subject",
        caption=(
            f"Ventricle volume of counterfactuals; rank correlation within a subject {spearman:.3f}, "
            f"rising at every step in {100 * values['counterfactual_monotone_share']:.0f} % of subjects."
        ),
        command=run.evaluation("counterfactual"),
    )
