# SPDX-License-Identifier: Apache-2.0
"""The order of the page's sections, what they are made of, and what each part needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ldae.data.artefact import whole
from ldae.evaluation.calibration import NAME as CALIBRATION
from ldae.evaluation.counterfactual import TRUTH_TABLE
from ldae.evaluation.record import RESULT, SCANS, TABLE
from ldae.evaluation.solvers import NAME as SOLVERS
from ldae.report.calibration_section import calibration_elements
from ldae.report.counterfactual_section import counterfactual_elements, volume_curves
from ldae.report.elements import Element, Section
from ldae.report.evaluation_tables import (
    comparison_table,
    interpolation_table,
    reconstruction_table,
    sites_table,
    solvers_table,
    truth_table,
)
from ldae.report.examination_section import NAME as EXAMINATION
from ldae.report.examination_section import examination_elements
from ldae.report.explanation_section import explanation_pictures
from ldae.report.model_sections import attention_picture, code_picture, gap_picture, training_picture
from ldae.report.robustness_section import robustness_pictures, robustness_tables
from ldae.report.run import Run
from ldae.report.sample_section import sample_picture, sampling_table
from ldae.report.scan_sections import interpolation_pictures, reconstruction_pictures, variation_pictures

Build = Callable[[Run], Element | list[Element]]


@dataclass(frozen=True)
class Part:
    """A part of a section.

    Attributes:
        build: Makes it.
        needs: What must be in the run: a verb's record, or a file.
        command: What makes that; "" for what only some runs have, and none should miss.
    """

    build: Build
    needs: str
    command: str

    def elements(self, run: Run) -> list[Element]:
        """What is shown.

        Raises:
            CheckpointError: A file that it is made of is damaged.
        """
        of_a_verb = self.needs in run.jobs
        with whole(f"What `ldae {self.needs}` wrote" if of_a_verb else (run.run_dir / self.needs).parent):
            made = self.build(run)
        return made if isinstance(made, list) else [made]


@dataclass(frozen=True)
class Chapter:
    """A section before it is made."""

    title: str
    text: str
    parts: Sequence[Part]


CHAPTERS: Sequence[Chapter] = (
    Chapter(
        "Reconstruction",
        "Both codes lead back to what the autoencoder can show; the difference to the scan is what it loses.",
        (
            Part(reconstruction_pictures, "reconstruct", "ldae reconstruct"),
            Part(reconstruction_table, f"evaluation/reconstruction/{TABLE}", "ldae evaluate reconstruction"),
            Part(solvers_table, f"evaluation/{SOLVERS}/{TABLE}", ""),
        ),
    ),
    Chapter(
        "Variation",
        "One semantic code with fresh stochastic codes. Where the spread is dark the code has settled the "
        "anatomy; where it is bright the code leaves it open.",
        (Part(variation_pictures, "vary", "ldae vary"),),
    ),
    Chapter(
        "Counterfactuals",
        "The semantic code is moved until a head gives the wanted answer; the stochastic code stays the "
        "subject's own.",
        (
            Part(counterfactual_elements, "manipulate", "ldae manipulate"),
            Part(volume_curves, f"evaluation/counterfactual/{SCANS}", "ldae evaluate counterfactual"),
            Part(truth_table, f"evaluation/counterfactual/{TRUTH_TABLE}", ""),
        ),
    ),
    Chapter(
        "Interpolation",
        "Semantic codes are mixed on the straight line, stochastic ones on the sphere.",
        (
            Part(interpolation_pictures, "interpolate", "ldae interpolate"),
            Part(interpolation_table, f"evaluation/interpolation/{TABLE}", "ldae evaluate interpolation"),
        ),
    ),
    Chapter(
        "Scans of nobody",
        "Semantic codes drawn from the code sampler, with fresh stochastic codes.",
        (
            Part(sample_picture, "sample", ""),
            Part(sampling_table, f"evaluation/sampling/{TABLE}", ""),
        ),
    ),
    Chapter(
        "What the code holds",
        "Linear probes, fitted on training subjects and judged on test subjects.",
        (
            Part(code_picture, "evaluation/comparison/result.json", "ldae evaluate comparison"),
            Part(comparison_table, f"evaluation/comparison/{TABLE}", ""),
        ),
    ),
    Chapter(
        "Does the head know when it does not?",
        "Whether its probabilities are what they say, and what its doubt is good for.",
        (Part(calibration_elements, f"evaluation/{CALIBRATION}/{RESULT}", ""),),
    ),
    Chapter(
        "Heads under shift",
        "Every head, fitted on clean scans and asked about scans that were corrupted, attacked, or of "
        "another kind.",
        (
            Part(robustness_tables, f"evaluation/robustness/{TABLE}", ""),
            Part(robustness_pictures, f"evaluation/robustness/{TABLE}", ""),
        ),
    ),
    Chapter(
        "Heads at another site",
        "Every site left out of the fitting in its turn; the encoder has seen its scans, without labels.",
        (Part(sites_table, f"evaluation/sites/{TABLE}", ""),),
    ),
    Chapter(
        "Is the code used?",
        "The denoising error of held-out scans, with the same noise and three different codes.",
        (
            Part(gap_picture, f"evaluation/code/{TABLE}", "ldae evaluate code"),
            Part(examination_elements, f"evaluation/{EXAMINATION}/{TABLE}", ""),
        ),
    ),
    Chapter(
        "Which slices count",
        "The semantic encoder reads a scan slice by slice; these are the weights of the slices.",
        (Part(attention_picture, "pipeline", "ldae fit"),),
    ),
    Chapter(
        "What moves the head",
        "Which voxels and slices make the head say what it says, by four methods that need not agree.",
        (Part(explanation_pictures, f"evaluation/explanation/{TABLE}", ""),),
    ),
    Chapter(
        "Training",
        "Losses over optimiser steps.",
        (Part(training_picture, "logs/*/*/metrics.csv", "ldae fit"),),
    ),
)


def build_sections(run: Run) -> tuple[list[Section], list[str]]:
    """The sections that can be made, and a sentence on each part that cannot."""
    sections, missing = [], []
    for chapter in CHAPTERS:
        elements = [one for part in chapter.parts if run.has(part.needs) for one in part.elements(run)]
        if elements:
            sections.append(Section(chapter.title, chapter.text, elements))
        missing += list(_missing(run, chapter))
    return sections, missing


def _missing(run: Run, chapter: Chapter) -> Iterator[str]:
    for part in chapter.parts:
        if part.command and not run.has(part.needs):
            yield f"{chapter.title}: run {part.command}"
