# SPDX-License-Identifier: Apache-2.0
"""The report of a run as one HTML file that needs nothing else."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ldae import __version__
from ldae.data.artefact import atomic_path
from ldae.errors import InputError
from ldae.evaluation.record import RESULT, read_result
from ldae.evaluation.summary import FIGURES, Figure, read_timings, write_summary
from ldae.report.content import build_sections
from ldae.report.elements import Section
from ldae.report.run import Run

logger = logging.getLogger(__name__)

PAGE = "report.html"
TEMPLATE = "page.html"
GROUPS = {
    "reconstruction": "Reconstruction",
    "code": "Is the code used?",
    "comparison": "What the code holds",
    "counterfactual": "Counterfactuals",
    "interpolation": "Interpolation",
    "timings": "Time",
}


@dataclass(frozen=True)
class Row:
    """A figure of the summary as the page shows it."""

    key: str
    value: str
    interval: str
    meaning: str
    bars: tuple[tuple[str, bool], ...]


def write_report(run_dir: str | Path, *, device: str = "auto") -> Path:
    """Write summary.json and report.html of a run.

    What has not been measured or rendered is named on the page with the command that does; the summary is
    written only when it is complete.

    Args:
        run_dir: Folder of the run, with its cohort and pipeline.
        device: Where to compute what the page shows beside what was written before.

    Returns:
        The page.

    Raises:
        FileNotFoundError: Pipeline or cohort are missing.
        InputError: The cohort has faults.
    """
    run_dir = Path(run_dir)
    try:
        write_summary(run_dir)
    except (FileNotFoundError, InputError) as error:
        logger.warning("summary.json is not written: %s", error)
    run = Run.open(run_dir, device=device)
    sections, missing = build_sections(run)
    values, done = read_values(run_dir / "evaluation")
    page = render_page(
        title=run_dir.name,
        facts=_facts(run),
        groups=summary_groups(values),
        notes=[note for result in done for note in result["notes"]],
        missing=missing,
        sections=sections,
    )
    with atomic_path(run_dir / PAGE) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return run_dir / PAGE


def render_page(
    *,
    title: str,
    facts: Mapping[str, str],
    groups: Mapping[str, Sequence[Row]],
    sections: Sequence[Section],
    notes: Sequence[str] = (),
    missing: Sequence[str] = (),
) -> str:
    """The page's HTML.

    Args:
        title: Name of the run.
        facts: What was judged, by label.
        groups: Figures of the summary by theme.
        sections: Figures and tables with their captions.
        notes: Sentences that a reader must know to judge the figures.
        missing: What the page does not show, and what makes it.
    """
    environment = Environment(
        loader=PackageLoader("ldae.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    bars = [reached for rows in groups.values() for row in rows for _, reached in row.bars]
    return environment.get_template(TEMPLATE).render(
        title=title,
        facts=facts,
        groups=groups,
        sections=sections,
        notes=notes,
        missing=missing,
        reached=sum(bars),
        bars=len(bars),
        slides=any(element.kind == "series" for section in sections for element in section.elements),
        version=__version__,
    )


def summary_groups(values: Mapping[str, Any]) -> dict[str, list[Row]]:
    """The known figures of the summary by theme, intervals beside their figure."""
    groups: dict[str, list[Row]] = {title: [] for title in GROUPS.values()}
    for figure in FIGURES:
        if figure.key in values and not figure.key.endswith("_ci"):
            groups[GROUPS[figure.source]].append(_row(figure, values))
    return {title: rows for title, rows in groups.items() if rows}


def _row(figure: Figure, values: Mapping[str, Any]) -> Row:
    interval = values.get(f"{figure.key}_ci")
    return Row(
        key=figure.key,
        value=format_number(figure.key, values[figure.key]),
        interval=""
        if interval is None
        else " to ".join(format_number(figure.key, bound) for bound in interval),
        meaning=figure.meaning,
        bars=tuple((bar.text, bar.reached(values)) for bar in figure.bars if bar.needs <= values.keys()),
    )


def format_number(key: str, value: float) -> str:
    """A figure with as many digits as it deserves."""
    if key.startswith("seconds"):
        return f"{value:.0f}"
    if key.endswith(("_psnr", "_mae")):
        return f"{value:.2f}"
    return f"{value:.4f}" if "ssim" in key else f"{value:.3f}"


def read_values(out: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Everything that the evaluations of a run measured, and their results one by one."""
    names = dict.fromkeys(figure.source for figure in FIGURES)
    done = [read_result(out / name) for name in names if (out / name / RESULT).is_file()]
    values = {key: value for result in done for key, value in result["values"].items()}
    timings = out.parent / "timings.json"
    if timings.is_file():
        values |= read_timings(out.parent)
    return values, done


def _facts(run: Run) -> dict[str, str]:
    frame = run.scans.frame
    counts = frame.groupby("split")["subject"].nunique()
    split = ", ".join(f"{counts[name]} {name}" for name in ("train", "val", "cal", "test") if name in counts)
    spec = run.scans.pipeline.spec
    size = " × ".join(map(str, spec.size))
    spacing = " × ".join(f"{edge:g}" for edge in spec.spacing)
    return {
        "Subjects": f"{frame['subject'].nunique():,} ({split})",
        "Scans": f"{len(frame):,}, of test subjects {len(run.scans.rows):,}",
        "Grid": f"{size} voxels of {spacing} mm",
        "Semantic code": f"{len(run.scans.pipeline.statistics.mean)} numbers",
        "Pipeline": run.scans.pipeline.sha256[:12],
    }
