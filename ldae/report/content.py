# SPDX-License-Identifier: Apache-2.0
"""The sections of the report: figures with what they show, and the command that made each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from ldae.data.artefact import read_json
from ldae.evaluation.material import Material, ScanSet, first_visits, open_scans, visit_order
from ldae.evaluation.probes import read_metrics
from ldae.evaluation.record import SCANS, TABLE
from ldae.report.figures import (
    Panel,
    Volume,
    attention_figure,
    encode_png,
    head_box,
    line_figure,
    probe_figure,
    target_curves,
    training_figure,
    volume_figure,
)
from ldae.report.renderings import Job, Viewer, read_jobs, short_path

STAGES = {
    "autoencoder": ("Stage 1: autoencoder", {"train/l1": "L1", "val/l1": "L1, held out"}),
    "denoiser": ("Stage 2: denoiser", {"train/loss": "loss", "val/loss": "loss, held out"}),
    "representation": (
        "Stage 3: code",
        {
            "train/loss": "loss",
            "val/right": "held out, own code",
            "val/shuffled": "held out, another's",
            "val/none": "held out, no code",
        },
    ),
}
FIT_COMMAND = "ldae fit --config aekl.yaml, then ldae_pretrain.yaml, then ldae_repr_learn.yaml"
SMOOTHED = 25  # training steps in a point, where there are many
ATTENTION_SCANS = 64
PIXELS_PER_INCH = 102


@dataclass(frozen=True)
class Picture:
    """One figure of the page.

    Attributes:
        source: Data URI of the image.
        width: Width at which it is shown, pixels.
        alt: What is to be seen, for those who cannot see it.
        caption: What it means.
        command: What made it.
    """

    source: str
    width: int
    alt: str
    caption: str
    command: str


@dataclass
class Section:
    """One part of the page."""

    title: str
    text: str
    pictures: list[Picture] = field(default_factory=list)


@dataclass(frozen=True)
class Run:
    """A run folder, opened for its report."""

    run_dir: Path
    scans: ScanSet
    jobs: dict[str, Job]
    viewer: Viewer

    @classmethod
    def open(cls, run_dir: Path, *, device: str = "auto") -> Run:
        """Load the pipeline and find what the verbs wrote."""
        material = Material.of(
            run_dir / "pipeline",
            run_dir / "cohort" / "cohort.csv",
            out=run_dir / "evaluation",
            device=device,
        )
        scans = open_scans(material)
        return cls(run_dir, scans, read_jobs(run_dir), Viewer(scans.pipeline))

    def table(self, evaluation: str, name: str) -> pd.DataFrame:
        """A table of an evaluation."""
        return pd.read_csv(self.run_dir / "evaluation" / evaluation / name)

    def command(self, words: str) -> str:
        """A command on this run."""
        return f"ldae {words} --run-dir {short_path(self.run_dir)}"


def build_sections(run: Run) -> tuple[list[Section], list[str]]:
    """The sections that can be made, and a sentence on each that cannot."""
    sections, missing = [], []
    for build, needed, way in PARTS:
        absent = [name for name in needed if not _is_there(run, name)]
        if absent:
            missing.append(f"{way[0]}: run {way[1]}")
        else:
            sections.append(build(run))
    return sections, missing


def _is_there(run: Run, name: str) -> bool:
    return name in run.jobs or any(run.run_dir.glob(name))


def _picture(figure: Figure, *, alt: str, caption: str, command: str) -> Picture:
    width = round(float(figure.get_size_inches()[0]) * PIXELS_PER_INCH)
    return Picture(encode_png(figure), width, alt=alt, caption=caption, command=command)


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
        name = _name(run, source)
        section.pictures.append(
            _picture(
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
        name = _name(run, source)
        section.pictures.append(
            _picture(
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
    if _is_there(run, f"evaluation/counterfactual/{SCANS}"):
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
    name = _name(run, source)
    verdict = outputs[-1]["Verdict"]
    return _picture(
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
    return _picture(
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
    name = _name(run, first)
    picture = _picture(
        volume_figure(panels, spacing=run.viewer.spacing(first), planes=("axial", "coronal")),
        alt=f"{name}: two scans and what is decoded between their codes",
        caption=f"{name} and {_name(run, last)}.",
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


def code_section(run: Run) -> Section:
    """What the code holds, by probes on held-out subjects."""
    section = Section(
        "What the code holds",
        "Linear probes, fitted on training subjects and judged on test subjects.",
    )
    heads = (run.run_dir / "heads", run.run_dir / "evaluation" / "comparison" / "heads")
    diagnosis, volume = (
        next(folder / name for folder in heads if (folder / name / "metrics.json").is_file())
        for name in ("diagnosis", "ventricle_ml")
    )
    classes, numbers = (
        rows[rows["split"] == "test"]
        for rows in (pd.read_csv(folder / "predictions.csv") for folder in (diagnosis, volume))
    )
    figure = probe_figure(
        classes["y_true"] == "AD",
        classes["p_AD"],
        auc=read_metrics(diagnosis)["auc"],
        known=numbers["y_true"],
        predicted=numbers["y_pred"],
        r2=read_metrics(volume)["r2"],
    )
    section.pictures.append(
        _picture(
            figure,
            alt="ROC curve of AD against CN, and predicted against known ventricle volume",
            caption=f"{len(classes)} test scans of AD or CN (left), {len(numbers)} test scans (right).",
            command=run.command("evaluate comparison"),
        )
    )
    return section


def gap_section(run: Run) -> Section:
    """Whether the code is used, by noise level."""
    table = run.table("code", TABLE)
    names = {"right": "own code", "shuffled": "another subject's code", "none": "no code"}
    lines = {label: (table["level"], table[name]) for name, label in names.items()}
    picture = _picture(
        line_figure(lines, x="noise level t", y="error of v, per latent element"),
        alt="Denoising error by noise level with the own code, another subject's code, and none",
        caption="The gap between own and another's code is what the decoder takes from the code.",
        command=run.command("evaluate code"),
    )
    text = "The denoising error of held-out scans, with the same noise and three different codes."
    return Section("Is the code used?", text, [picture])


def attention_section(run: Run) -> Section:
    """Which slices count."""
    networks = run.scans.pipeline.networks
    rows = first_visits(run.scans.rows, limit=ATTENTION_SCANS)
    weights, mean = [], np.zeros(run.scans.pipeline.spec.size, dtype=np.float32)
    with torch.inference_mode():
        for start in range(0, len(rows), networks.volume_batch):
            volumes = run.scans.volumes(rows.iloc[start : start + networks.volume_batch])
            weights.append(networks.encoder.describe(volumes.to(networks.device)).attention.cpu().numpy())
            mean += volumes[:, 0].numpy().sum(axis=0) / len(rows)
    plane = networks.encoder.config.plane
    return Section(
        "Which slices count",
        "The semantic encoder reads a scan slice by slice; these are the weights of the slices.",
        [
            _picture(
                attention_figure(np.concatenate(weights), _beside_slices(mean, plane), plane=plane),
                alt=f"Weight of each {plane} slice, mean and spread over test scans, beside their mean scan",
                caption=f"Mean of {len(rows)} test scans, and the weights: mean, 10th to 90th percentile.",
                command=run.command("report"),
            )
        ],
    )


def _beside_slices(volume: Volume, plane: str) -> Volume:
    """A cut through the middle of the head whose rows are the slices of a plane."""
    (x0, x1), (y0, y1), (z0, z1) = head_box(volume)
    x, y, z = (x0 + x1) // 2, (y0 + y1) // 2, (z0 + z1) // 2
    cuts = {"axial": volume[x].T, "coronal": volume[:, :, z].T, "sagittal": volume[:, y]}
    return np.asarray(cuts[plane])


def training_section(run: Run) -> Section:
    """Losses of the three stages."""
    stages = {}
    for stage, (title, columns) in STAGES.items():
        lines = _training_lines(run.run_dir / "logs" / stage, columns)
        if lines:
            stages[title] = lines
    picture = _picture(
        training_figure(stages),
        alt="Training and validation losses of the three stages over optimiser steps",
        caption="Held-out losses are those of the averaged weights on validation subjects.",
        command=run.command("demo") if (run.run_dir / "stamps").is_dir() else FIT_COMMAND,
    )
    return Section("Training", "Losses over optimiser steps.", [picture])


def _training_lines(folder: Path, columns: dict[str, str]) -> dict[str, tuple[pd.Series, pd.Series]]:
    """Logged values of a stage by label, of all its parts where training was interrupted."""
    logs = sorted(folder.glob("*/metrics.csv"), key=lambda path: path.stat().st_mtime_ns)
    if not logs:
        return {}
    table = pd.concat([pd.read_csv(path) for path in logs], ignore_index=True)
    lines = {}
    for column, label in columns.items():
        if column not in table.columns:
            continue
        values = table[["step", column]].dropna().drop_duplicates("step", keep="last").sort_values("step")
        if len(values) > 8 * SMOOTHED:
            values = values.groupby(np.arange(len(values)) // SMOOTHED).mean()
        lines[label] = (values["step"], values[column])
    return lines


def _name(run: Run, path: Path) -> str:
    """Subject, session, diagnosis and age of a scan, or its file name."""
    rows = run.scans.frame[run.scans.frame["path"] == str(path)]
    if rows.empty:
        return path.name
    row = rows.iloc[0]
    known = [str(row["diagnosis"])] if isinstance(row["diagnosis"], str) else []
    known += [f"{row['age']:.0f} years"] if np.isfinite(row["age"]) else []
    return ", ".join([f"{row['subject']} {row['session']}", *known])


Builder = Callable[[Run], Section]
# What builds a section, what it needs in the run (a verb's record, or files), and how that is made.
PARTS: Sequence[tuple[Builder, tuple[str, ...], tuple[str, str]]] = (
    (reconstruction_section, ("reconstruct",), ("Reconstruction", "ldae reconstruct")),
    (variation_section, ("vary",), ("Variation", "ldae vary")),
    (counterfactual_section, ("manipulate",), ("Counterfactuals", "ldae manipulate")),
    (interpolation_section, ("interpolate",), ("Interpolation", "ldae interpolate")),
    (
        code_section,
        ("evaluation/comparison/result.json",),
        ("What the code holds", "ldae evaluate comparison"),
    ),
    (gap_section, (f"evaluation/code/{TABLE}",), ("Is the code used?", "ldae evaluate code")),
    (attention_section, (), ("Which slices count", "ldae report")),
    (training_section, ("logs/*/*/metrics.csv",), ("Training", "ldae fit")),
)
