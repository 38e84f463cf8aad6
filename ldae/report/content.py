# SPDX-License-Identifier: Apache-2.0
"""The order of the report's sections, and what each needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ldae.evaluation.record import TABLE
from ldae.report.model_sections import attention_section, code_section, gap_section, training_section
from ldae.report.run import Run, Section
from ldae.report.scan_sections import (
    counterfactual_section,
    interpolation_section,
    reconstruction_section,
    variation_section,
)

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


def build_sections(run: Run) -> tuple[list[Section], list[str]]:
    """The sections that can be made, and a sentence on each that cannot."""
    sections, missing = [], []
    for build, needed, way in PARTS:
        absent = [name for name in needed if not run.has(name)]
        if absent:
            missing.append(f"{way[0]}: run {way[1]}")
        else:
            sections.append(build(run))
    return sections, missing
