# SPDX-License-Identifier: Apache-2.0
"""What the verbs made of single scans: reconstruction, variation, interpolation."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ldae.evaluation.material import visit_order
from ldae.report.cuts import Panel
from ldae.report.elements import Element, make_picture
from ldae.report.run import Run, scan_name
from ldae.report.volumes import volume_figure

SHOWN_SAMPLES = 4


def reconstruction_pictures(run: Run) -> list[Element]:
    """Input, autoencoder, both codes, and the differences."""
    job = run.jobs["reconstruct"]
    pictures: list[Element] = []
    for source in job.sources:
        made = run.viewer.rendered(job.of(source)[0]["path"], like=source)
        scan, plain = run.viewer.source(source), run.viewer.autoencoder(source)
        panels = [
            Panel("input", scan),
            Panel("autoencoder", plain),
            Panel("both codes", made),
            Panel("both codes − input", made - scan, "difference"),
            Panel("both codes − autoencoder", made - plain, "difference"),
        ]
        name = scan_name(run, source)
        pictures.append(
            make_picture(
                volume_figure(panels, spacing=run.viewer.spacing(source)),
                alt=f"Three planes of {name}: input, autoencoder, both codes, and differences",
                caption=f"{name}. Axial, coronal and sagittal cuts through the middle of the head.",
                command=job.command(source),
            )
        )
    return pictures


def variation_pictures(run: Run) -> list[Element]:
    """Samples of one semantic code, and their mean and spread as the verb wrote them."""
    job = run.jobs["vary"]
    pictures: list[Element] = []
    for source in job.sources:
        files = [output["path"] for output in job.of(source)]
        panels = [Panel("input", run.viewer.source(source))]
        panels += [
            Panel(f"sample {number}", run.viewer.rendered(file, like=source))
            for number, file in enumerate(files[:SHOWN_SAMPLES], start=1)
        ]
        mean, spread = job.statistic(source, "mean"), job.statistic(source, "std")
        if mean and spread:
            panels.append(Panel(f"mean of {len(files)}", run.viewer.rendered(mean, like=source)))
            panels.append(Panel(f"spread of {len(files)}", run.viewer.map(spread, like=source), "spread"))
        name = scan_name(run, source)
        pictures.append(
            make_picture(
                volume_figure(panels, spacing=run.viewer.spacing(source)),
                alt=f"{name}: input, samples with the same semantic code, their mean and standard deviation",
                caption=f"{name}, {len(files)} samples, their mean and standard deviation voxel by voxel.",
                command=job.command(source),
            )
        )
    return pictures


def interpolation_pictures(run: Run) -> list[Element]:
    """Between two visits, beside the true visit in between where there is one."""
    job = run.jobs["interpolate"]
    first, last = job.sources[0], job.sources[-1]
    middle = _visit_between(run.scans.frame, first, last)
    made = {output["Fraction"]: run.viewer.rendered(output["path"], like=first) for output in job.of(first)}
    shown = [Panel(f"decoded at {fraction:g}", volume) for fraction, volume in sorted(made.items())]
    panels = [Panel("first scan", run.viewer.source(first)), *shown]
    panels.append(Panel("second scan", run.viewer.source(last)))
    caption = f"{scan_name(run, first)} and {scan_name(run, last)}."
    if middle is not None and 0.5 in made:
        truth = run.viewer.source(middle)
        panels.insert(1, Panel("true visit between", truth))
        panels.append(Panel("decoded − true", made[0.5] - truth, "difference"))
        caption += " The visit between the two was not used."
    return [
        make_picture(
            volume_figure(panels, spacing=run.viewer.spacing(first)),
            alt=f"{scan_name(run, first)}: two scans and what is decoded between their codes",
            caption=caption,
            command=job.command(*job.sources),
        )
    ]


def _visit_between(frame: pd.DataFrame, first: Path, last: Path) -> Path | None:
    """The scan of the one visit between two visits of a subject."""
    rows = frame[frame["path"].isin([str(first), str(last)])]
    if len(rows) != 2 or rows["subject"].nunique() != 1:
        return None
    paths = list(visit_order(frame[frame["subject"] == rows["subject"].iloc[0]])["path"])
    low, high = sorted(paths.index(str(path)) for path in (first, last))
    return Path(paths[low + 1]) if high - low == 2 else None
