# SPDX-License-Identifier: Apache-2.0
"""Sections on scans that the verbs wrote: reconstruction, variation, counterfactual, interpolation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from ldae.data.artefact import read_json
from ldae.evaluation.material import visit_order
from ldae.evaluation.record import SCANS
from ldae.report.figures import (
    Panel,
    target_curves,
    volume_figure,
)
from ldae.report.renderings import Job
from ldae.report.run import Picture, Run, Section, make_picture, scan_name


def reconstruction_section(run: Run) -> Section:
    """Input, autoencoder, both codes, and the differences."""
    job = run.jobs["reconstruct"]
    section = Section(
        "Reconstruction",
        "Both codes lead back to what the autoencoder can show; the difference to the scan is what it loses.",
    )
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
        section.pictures.append(
            make_picture(
                volume_figure(panels, spacing=run.viewer.spacing(source)),
                alt=f"Three planes of {name}: input, autoencoder, both codes, and differences",
                caption=f"{name}. Axial, coronal and sagittal cuts through the middle of the head.",
                command=job.command(source),
            )
        )
    return section


def variation_section(run: Run) -> Section:
    """What the semantic code fixes, and what it leaves open."""
    job = run.jobs["vary"]
    section = Section(
        "Variation",
        "One semantic code with fresh stochastic codes. Where the spread is dark the code has settled the "
        "anatomy; where it is bright the code leaves it open.",
    )
    for source in job.sources:
        made = [run.viewer.rendered(output["path"], like=source) for output in job.of(source)]
        shown = [Panel(f"sample {number}", volume) for number, volume in enumerate(made[:4], start=1)]
        spread = Panel(f"spread of {len(made)}", np.std(made, axis=0), "spread")
        name = scan_name(run, source)
        section.pictures.append(
            make_picture(
                volume_figure(
                    [Panel("input", run.viewer.source(source)), *shown, spread],
                    spacing=run.viewer.spacing(source),
                ),
                alt=f"{name}: input, samples with the same semantic code, and their standard deviation",
                caption=f"{name}, {len(made)} samples and their standard deviation voxel by voxel.",
                command=job.command(source),
            )
        )
    return section


def counterfactual_section(run: Run) -> Section:
    """The same brain, had the head said otherwise; with the measured volumes where they are known."""
    section = Section(
        "Counterfactuals",
        "The semantic code is moved until the diagnosis head gives the wanted probability; the stochastic "
        "code stays the subject's own.",
    )
    job = run.jobs["manipulate"]
    for source in job.sources:
        section.pictures.append(_series(run, job, source))
    if run.has(f"evaluation/counterfactual/{SCANS}"):
        section.pictures.append(_volume_curves(run))
    return section


def _series(run: Run, job: Job, source: Path) -> Picture:
    outputs = sorted(job.of(source), key=lambda output: output["Target"])
    volumes = [run.viewer.rendered(output["path"], like=source) for output in outputs]
    of = outputs[0]["TargetClass"]
    word = f"P({of})" if of else "target"
    panels = [Panel(f"input, {word} {outputs[0]['HeadBefore']:.2f}", run.viewer.source(source))]
    panels += [
        Panel(f"{word} {output['Target']:g}", volume) for output, volume in zip(outputs, volumes, strict=True)
    ]
    if len(outputs) > 1:
        ends = f"{outputs[-1]['Target']:g} − {outputs[0]['Target']:g}"
        panels.append(Panel(ends, volumes[-1] - volumes[0], "difference"))
    name = scan_name(run, source)
    verdict = outputs[-1]["Verdict"]
    return make_picture(
        volume_figure(panels, spacing=run.viewer.spacing(source), planes=("axial", "coronal")),
        alt=f"{name} rendered at {len(outputs)} values of {word}, and the difference between the ends",
        caption=f"{name}, head before: {outputs[0]['HeadBefore']:.2f}. At the last target: {verdict}.",
        command=job.command(source),
    )


def _volume_curves(run: Run) -> Picture:
    table = run.table("counterfactual", SCANS)
    wide = table.pivot(index="subject", columns="target", values="ventricle_ml")
    values = read_json(run.run_dir / "evaluation" / "counterfactual" / "result.json")["values"]
    spearman = values["counterfactual_spearman"]
    return make_picture(
        target_curves(list(wide.columns), wide.to_numpy(), label="P(AD)"),
        alt="Measured ventricle volume against wanted probability of AD, a line for each test subject",
        caption=(
            f"Ventricle volume of counterfactuals; rank correlation within a subject {spearman:.3f}, "
            f"rising at every step in {100 * values['counterfactual_monotone_share']:.0f} % of subjects."
        ),
        command=run.command("evaluate counterfactual"),
    )


def interpolation_section(run: Run) -> Section:
    """Between two visits, beside the true visit in between where there is one."""
    job = run.jobs["interpolate"]
    first, last = job.sources[0], job.sources[-1]
    middle = _visit_between(run.scans.frame, first, last)
    made = {output["Fraction"]: run.viewer.rendered(output["path"], like=first) for output in job.of(first)}
    shown = [Panel(f"decoded at {fraction:g}", volume) for fraction, volume in sorted(made.items())]
    panels = [Panel("first scan", run.viewer.source(first)), *shown]
    panels.append(Panel("second scan", run.viewer.source(last)))
    text = "Semantic codes are mixed on the straight line, stochastic ones on the sphere."
    if middle is not None and 0.5 in made:
        truth = run.viewer.source(middle)
        panels.insert(1, Panel("true visit between", truth))
        panels.append(Panel("decoded − true", made[0.5] - truth, "difference"))
        text += " The visit between the two was not used."
    name = scan_name(run, first)
    picture = make_picture(
        volume_figure(panels, spacing=run.viewer.spacing(first), planes=("axial", "coronal")),
        alt=f"{name}: two scans and what is decoded between their codes",
        caption=f"{name} and {scan_name(run, last)}.",
        command=job.command(*job.sources),
    )
    return Section("Interpolation", text, [picture])


def _visit_between(frame: pd.DataFrame, first: Path, last: Path) -> Path | None:
    """The scan of the one visit between two visits of a subject."""
    rows = frame[frame["path"].isin([str(first), str(last)])]
    if len(rows) != 2 or rows["subject"].nunique() != 1:
        return None
    paths = list(visit_order(frame[frame["subject"] == rows["subject"].iloc[0]])["path"])
    low, high = sorted(paths.index(str(path)) for path in (first, last))
    return Path(paths[low + 1]) if high - low == 2 else None
