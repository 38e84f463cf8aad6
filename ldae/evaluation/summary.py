# SPDX-License-Identifier: Apache-2.0
"""The figures of a run on one flat page, each with its meaning and, where there is one, its bar."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ldae.data.artefact import atomic_path, read_json, write_json
from ldae.errors import InputError
from ldae.evaluation.record import RESULT, read_result

SUMMARY = "summary.json"
TIMINGS = "timings.json"
BARS = Path("summary") / "table.csv"

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Bar:
    """What a figure should reach.

    Attributes:
        text: The bar in words.
        needs: Keys that it speaks of.
        reached: Whether the figures of a run reach it.
    """

    text: str
    needs: frozenset[str]
    reached: Callable[[Values], bool]


@dataclass(frozen=True)
class Figure:
    """One key of the summary.

    Attributes:
        key: Its name.
        source: The evaluation that measures it; "timings" for times of the run.
        meaning: What it is, in a sentence's part.
        bars: What it should reach.
    """

    key: str
    source: str
    meaning: str
    bars: tuple[Bar, ...] = ()


def _at_least(key: str, bound: float) -> Bar:
    return Bar(f"≥ {bound:g}", frozenset([key]), lambda values: bool(values[key] >= bound))


def _not_below(key: str, other: str) -> Bar:
    return Bar(f"≥ {other}", frozenset([key, other]), lambda values: bool(values[key] >= values[other]))


def _within(key: str, low: float, high: float) -> Bar:
    return Bar(f"{low:g} to {high:g}", frozenset([key]), lambda values: bool(low <= values[key] <= high))


def _below_share(key: str, share: float, other: str) -> Bar:
    return Bar(
        f"< {share:g} × {other}",
        frozenset([key, other]),
        lambda values: bool(values[key] < share * values[other]),
    )


FIGURES = (
    Figure("autoencoder_ssim", "reconstruction", "SSIM of the autoencoder's reconstruction to the input"),
    Figure("autoencoder_psnr", "reconstruction", "PSNR of the autoencoder's reconstruction to the input, dB"),
    Figure(
        "reconstruction_ssim",
        "reconstruction",
        "SSIM of a scan from both codes to the autoencoder's reconstruction",
        (_at_least("reconstruction_ssim", 0.99),),
    ),
    Figure(
        "semantic_only_ssim",
        "reconstruction",
        "the same from the semantic code and fresh noise",
        (_at_least("semantic_only_ssim", 0.92),),
    ),
    Figure(
        "noise_code_mean", "reconstruction", "mean of all elements of all stochastic codes; 0 if Gaussian"
    ),
    Figure(
        "noise_code_std",
        "reconstruction",
        "standard deviation of the same; 1 if Gaussian",
        (_within("noise_code_std", 0.8, 1.2),),
    ),
    Figure(
        "gap_right",
        "code",
        "denoising error (v, per latent element) with the scan's own code",
        (_below_share("gap_right", 0.45, "gap_shuffled"), _below_share("gap_right", 0.65, "gap_none")),
    ),
    Figure("gap_shuffled", "code", "the same with another subject's code"),
    Figure("gap_none", "code", "the same without a code"),
    Figure(
        "probe_auc",
        "comparison",
        "AUC of AD against CN, linear probe on the code",
        (
            _at_least("probe_auc", 0.87),
            _not_below("probe_auc", "baseline_auc"),
        ),
    ),
    Figure("probe_auc_ci", "comparison", "its 95 % interval over subjects"),
    Figure("baseline_auc", "comparison", "the same probe on as many principal components of the voxels"),
    Figure(
        "oracle_auc",
        "comparison",
        "AUC from the true ventricle volume and age: what the cohort allows",
        (_within("oracle_auc", 0.92, 0.97),),
    ),
    Figure("probe_age_mae", "comparison", "mean error of age, linear probe on the code, years"),
    Figure("baseline_age_mae", "comparison", "the same probe on as many principal components, years"),
    Figure(
        "ventricle_r2",
        "comparison",
        "R² of ventricle volume, linear probe on the code",
        (_at_least("ventricle_r2", 0.85),),
    ),
    Figure(
        "counterfactual_spearman",
        "counterfactual",
        "rank correlation within a subject of wanted P(AD) and measured ventricle volume, mean",
        (_at_least("counterfactual_spearman", 0.95),),
    ),
    Figure(
        "ventricle_estimator_r",
        "counterfactual",
        "correlation of the volume estimator with known volumes, real scans",
        (_at_least("ventricle_estimator_r", 0.95),),
    ),
    Figure(
        "interpolation_ssim",
        "interpolation",
        "SSIM of the middle of three visits, decoded from the outer two, to the true one",
    ),
    Figure("interpolation_ssim_copy", "interpolation", "the same for the outer visits themselves, mean"),
    Figure("seconds_phantom", "timings", "time to make the cohort, s"),
    Figure("seconds_autoencoder", "timings", "time to train stage 1, s"),
    Figure("seconds_denoiser", "timings", "time to train stage 2, s"),
    Figure("seconds_representation", "timings", "time to train stage 3, s"),
    Figure("seconds_total", "timings", "time of the whole run, s"),
)
KEYS = tuple(figure.key for figure in FIGURES)
# Evaluations of what only some runs have.
OPTIONAL = ("sampling",)


def write_summary(run_dir: str | Path, *, out: str | Path | None = None) -> Path:
    """Gather the figures of a run in summary.json, and its bars in evaluation/summary/table.csv.

    Args:
        run_dir: Folder of the run.
        out: Folder of the evaluations; None takes evaluation/ of the run.

    Returns:
        The path of summary.json.

    Raises:
        FileNotFoundError: An evaluation has not been done, or the times are missing.
        InputError: An evaluation did not yield a key.
    """
    run_dir = Path(run_dir)
    out = Path(out) if out else run_dir / "evaluation"
    values = gather_values(run_dir, out=out)
    write_json(run_dir / SUMMARY, values)
    with atomic_path(out / BARS) as temporary:
        bar_table(values).to_csv(temporary, index=False)
    return run_dir / SUMMARY


def gather_values(run_dir: Path, *, out: Path) -> dict[str, Any]:
    """All keys of the summary in their order, then whatever else the evaluations measured.

    Raises:
        FileNotFoundError: An evaluation has not been done, or the times are missing.
        InputError: An evaluation did not yield a key.
    """
    sources = dict.fromkeys(figure.source for figure in FIGURES if figure.source != "timings")
    found = {name: read_result(out / name)["values"] for name in sources}
    found["timings"] = read_timings(run_dir)
    values: dict[str, Any] = {}
    for figure in FIGURES:
        if figure.key not in found[figure.source]:
            where = run_dir / TIMINGS if figure.source == "timings" else out / figure.source / RESULT
            raise InputError(
                f"The summary must hold {figure.key}, got none in {where}. It needs a cohort with known "
                "anatomy (ldae phantom) and all parts of the demo. Run: ldae demo"
            )
        values[figure.key] = found[figure.source][figure.key]
    found |= {name: read_result(out / name)["values"] for name in OPTIONAL if (out / name / RESULT).is_file()}
    for parts in found.values():
        values |= {key: value for key, value in parts.items() if key not in values}
    return values


def read_timings(run_dir: Path) -> dict[str, float]:
    """Seconds by part of the run, as keys that begin with "seconds_".

    Raises:
        FileNotFoundError: They are missing; the message says what writes them.
    """
    path = run_dir / TIMINGS
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: the demo writes it. Run: ldae demo")
    named: dict[str, float] = read_json(path)
    return {f"seconds_{name.removeprefix('seconds_')}": float(value) for name, value in named.items()}


def bar_table(values: Values) -> pd.DataFrame:
    """One row a figure and bar: key, value, bar, reached, meaning; an empty bar where there is none."""
    rows = []
    for figure in FIGURES:
        if figure.key not in values:
            continue
        row = {"key": figure.key, "value": values[figure.key]}
        rows += [
            {**row, "bar": bar.text, "reached": bar.reached(values), "meaning": figure.meaning}
            for bar in figure.bars
            if bar.needs <= values.keys()
        ] or [{**row, "bar": "", "reached": None, "meaning": figure.meaning}]
    return pd.DataFrame(rows, columns=["key", "value", "bar", "reached", "meaning"])
