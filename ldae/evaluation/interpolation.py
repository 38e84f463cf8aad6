# SPDX-License-Identifier: Apache-2.0
"""Whether what lies between two visits resembles the visit that was really between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from ldae.data.phantom_truth import KnownCohort, is_synthetic
from ldae.diffusion.interpolation import lerp, slerp
from ldae.diffusion.samplers import DEFAULT_SOLVER, Solver
from ldae.errors import InputError
from ldae.evaluation.bootstrap import mean_with_interval
from ldae.evaluation.codes import StoredScans, encode_scans
from ldae.evaluation.counterfactual import TRUTH, fit_estimator
from ldae.evaluation.image_metrics import SSIM_WINDOW, mse, ssim
from ldae.evaluation.material import SCANS_AT_ONCE, Material, ScanSet, open_scans, visit_order
from ldae.evaluation.record import Findings, evaluate_once
from ldae.evaluation.truth import render_truth
from ldae.evaluation.ventricles import VentricleEstimator
from ldae.evaluation.workers import side_by_side
from ldae.pipeline.interpolation import check_fractions

NAME = "interpolation"
VISITS = 3
RENDERED = 12  # pairs of neighbouring visits with a rendered middle, unless all are taken
GRAIN = 6.0  # months to which distances between visits are rounded
SCAN, AUTOENCODER = "scan", "autoencoder"
Triples = Sequence[tuple[int, int, int]]
KINDS = {
    "interpolated": "decoded from the codes of the outer visits",
    "interpolated_added": "their voxel-wise mean, and what the interpolation adds to the autoencoder's",
    "copy_first": "the first visit itself",
    "copy_last": "the last visit itself",
    "voxel_mean": "the voxel-wise mean of the outer visits",
    "autoencoder": "the middle visit through the autoencoder: the ceiling",
}


@dataclass(frozen=True)
class Gap:
    """Pairs of visits with the scan that was, or would have been, taken between them.

    Attributes:
        months: Between the outer visits, to half a year; 0 where unknown.
        first: Index of the earlier scans.
        last: Index of the later scans.
        truth: The true scans between them [N, 1, X, Y, Z] in [0, 1].
        ventricle_ml: Their known ventricle volumes [N]; None where unknown.
        origin: Where the true scans come from, "visit" or "rendered".
    """

    months: float
    first: list[int]
    last: list[int]
    truth: Tensor
    ventricle_ml: NDArray[np.float64] | None
    origin: str

    def parts(self, *, size: int) -> list[Gap]:
        """The same pairs, so many at a time."""
        starts = range(0, len(self.first), size)
        return [self._part(slice(start, start + size)) for start in starts]

    def _part(self, some: slice) -> Gap:
        volumes = None if self.ventricle_ml is None else self.ventricle_ml[some]
        return Gap(
            self.months, self.first[some], self.last[some], self.truth[some], volumes, origin=self.origin
        )


def evaluate_interpolation(
    pipeline: str | Path,
    cohort: str | Path,
    *,
    out: str | Path,
    split: str = "test",
    fraction: float = 0.5,
    steps: int = 20,
    decode_steps: int | None = None,
    solver: Solver = DEFAULT_SOLVER,
    seed: int = 0,
    limit: int | None = None,
    thorough: bool = False,
    device: str = "auto",
    progress: bool = False,
    run_dir: str | Path | None = None,
) -> Path:
    """Decode the middle of three visits from the codes of the outer two and compare it with the true scan.

    Semantic codes are mixed on the straight line, stochastic ones on the sphere. Beside it stand the outer
    visits themselves (their mean over both), their voxel-wise mean, and the autoencoder's ceiling. What is
    decoded lacks the detail that the autoencoder loses: everything is therefore also compared with the middle
    visit through the autoencoder, and the others are then seen through it as well.

    A synthetic cohort also renders what lies between two neighbouring visits, with an acquisition of its own.

    Args:
        pipeline: Folder of the pipeline.
        cohort: The cohort's table.
        out: Folder of the results, such as evaluation/interpolation of the run.
        split: Scans to judge it on.
        fraction: Where the middle visit lies between the outer two.
        steps: Network calls from latent to noise.
        decode_steps: Network calls from noise to latent; None takes `steps`.
        solver: How the encoding steps are taken.
        seed: Seed that draws the subjects.
        limit: So many subjects at most; None takes all who came three times.
        thorough: Take all neighbouring visits of a synthetic cohort, not 12 pairs only.
        device: "auto" (a GPU where there is one), "cpu", "cuda:1" and so on.
        progress: Show a bar.
        run_dir: Folder of the run, for its cache of volumes; None takes the one that holds the pipeline.

    Returns:
        The folder, with table.csv, scans.csv and result.json.

    Raises:
        InputError: Fewer than two subjects of the split have three visits, the fraction is outside 0..1, or
            the cohort is synthetic but of another recipe.
    """
    check_fractions([fraction], extrapolate=False)
    material = Material.of(
        pipeline, cohort, out=out, run_dir=run_dir, split=split, device=device, progress=progress
    )
    down = steps if decode_steps is None else decode_steps

    known = KnownCohort.open(cohort) if thorough or is_synthetic(cohort) else None

    def compute() -> Findings:
        scans = open_scans(material)
        triples = find_triples(scans.rows, limit=limit, seed=seed)
        if len(triples) < 2:
            raise InputError(
                f"At least 2 subjects of split {split} must have {VISITS} visits, got {len(triples)} in "
                f"{cohort}. Leave this evaluation out for such a cohort."
            )
        gaps = visited_gaps(scans, triples)
        if known is not None:
            pairs = find_pairs(scans.rows, limit=limit if thorough else RENDERED, seed=seed)
            gaps += rendered_gaps(scans, known, pairs, fraction=fraction)
        codes = encode_scans(scans, material, steps=steps, solver=solver)
        estimator = fit_estimator(scans, cohort=material.cohort) if TRUTH in scans.frame.columns else None

        def compare(gap: Gap) -> pd.DataFrame:
            return _compare(scans, codes, gap, fraction=fraction, steps=down, estimator=estimator)

        chunks = [part for gap in gaps for part in gap.parts(size=SCANS_AT_ONCE)]
        networks = scans.pipeline.networks
        parts = side_by_side(compare, chunks, networks=networks, name=NAME, progress=progress)
        return _findings(pd.concat(parts, ignore_index=True))

    settings = {
        "fraction": fraction,
        "steps": steps,
        "decode_steps": down,
        "solver": solver,
        "seed": seed,
        "limit": limit,
        "thorough": thorough,
        "ssim_window": SSIM_WINDOW,
    }
    inputs = [known.parameters] if known else []
    return evaluate_once(material, name=NAME, settings=settings, compute=compute, inputs=inputs)


def find_triples(rows: pd.DataFrame, *, limit: int | None = None, seed: int = 0) -> Triples:
    """Index of the first three visits of every subject that has them, or of `limit` such subjects."""
    visits = [list(group.index) for _, group in visit_order(rows).groupby("subject", sort=False)]
    triples = [(found[0], found[1], found[2]) for found in visits if len(found) >= VISITS]
    chosen = np.random.default_rng(seed).permutation(len(triples))[:limit]
    return [triples[place] for place in np.sort(chosen)]


def find_pairs(rows: pd.DataFrame, *, limit: int | None = None, seed: int = 0) -> Sequence[tuple[int, int]]:
    """Index of the first two visits of every subject that has them, or of `limit` such subjects."""
    visits = [list(group.index) for _, group in visit_order(rows).groupby("subject", sort=False)]
    pairs = [(found[0], found[1]) for found in visits if len(found) >= 2]
    chosen = np.random.default_rng(seed).permutation(len(pairs))[:limit]
    return [pairs[place] for place in np.sort(chosen)]


def visited_gaps(scans: ScanSet, triples: Triples) -> list[Gap]:
    """The outer visits of triples, by their distance in months, with the scan of the middle visit."""
    months = [_months(scans.rows, first, last) for first, _, last in triples]
    gaps = []
    for distance in sorted(set(months)):
        chosen = [triple for triple, found in zip(triples, months, strict=True) if found == distance]
        first, middle, last = (list(places) for places in zip(*chosen, strict=True))
        rows = scans.rows.loc[middle]
        volumes = rows[TRUTH].to_numpy(dtype=float) if TRUTH in rows.columns else None
        gaps.append(Gap(distance, first, last, scans.volumes(rows), volumes, origin="visit"))
    return gaps


def rendered_gaps(
    scans: ScanSet, known: KnownCohort, pairs: Sequence[tuple[int, int]], *, fraction: float
) -> list[Gap]:
    """Neighbouring visits, with the scan that would have been taken between them.

    Raises:
        InputError: A scan is not as the cohort was made.
    """
    if not pairs:
        return []
    first, last = (list(places) for places in zip(*pairs, strict=True))
    rows = scans.rows.loc[first]
    known.check(rows.iloc[0].to_dict())
    when = scans.rows["visit_months"].astype(float)
    months = [(1 - fraction) * when[a] + fraction * when[b] for a, b in pairs]
    factors = [
        known.unseen_visit(row, months=at) for row, at in zip(rows.to_dict("records"), months, strict=True)
    ]
    truth = render_truth(scans, known, rows=rows, factors=factors, same_scale=False)
    distance = _months(scans.rows, first[0], last[0])
    return [Gap(distance, first, last, truth.volumes, truth.ventricle_ml, origin="rendered")]


def _months(rows: pd.DataFrame, first: int, last: int) -> float:
    if "visit_months" not in rows.columns:
        return 0.0
    between = float(rows.loc[last, "visit_months"] - rows.loc[first, "visit_months"])
    return GRAIN * round(between / GRAIN)


def _compare(
    scans: ScanSet,
    codes: StoredScans,
    gap: Gap,
    *,
    fraction: float,
    steps: int,
    estimator: VentricleEstimator | None,
) -> pd.DataFrame:
    """One row a subject, kind and reference."""
    networks = scans.pipeline.networks
    start, end = (scans.volumes(scans.rows.loc[places]) for places in (gap.first, gap.last))
    first, last = codes.take(gap.first), codes.take(gap.last)
    seen_start, seen_end = (networks.expand(ends.latents) for ends in (first, last))
    seen_truth = networks.expand(networks.compress(gap.truth))
    made = scans.pipeline.decode_tensors(
        lerp(first.semantic, last.semantic, fraction=fraction),
        slerp(first.stochastic, last.stochastic, fraction=fraction),
        steps=steps,
        batch_size=SCANS_AT_ONCE,
    )
    mean, seen_mean = lerp(start, end, fraction=fraction), lerp(seen_start, seen_end, fraction=fraction)
    against_scan = {
        "interpolated": made,
        "interpolated_added": (mean + made - seen_mean).clamp(0, 1),
        "copy_first": start,
        "copy_last": end,
        "voxel_mean": mean,
        "autoencoder": seen_truth,
    }
    against_seen = {
        "interpolated": made,
        "copy_first": seen_start,
        "copy_last": seen_end,
        "voxel_mean": seen_mean,
    }
    parts = []
    for against, truth, images in (
        (SCAN, gap.truth, against_scan),
        (AUTOENCODER, seen_truth, against_seen),
    ):
        for kind, image in images.items():
            part = _measured(scans.rows.loc[gap.first], image, truth=truth, gap=gap, estimator=estimator)
            parts.append(part.assign(kind=kind, against=against))
    return pd.concat(parts)


def _measured(
    rows: pd.DataFrame, image: Tensor, *, truth: Tensor, gap: Gap, estimator: VentricleEstimator | None
) -> pd.DataFrame:
    columns: dict[str, Any] = {
        "subject": list(rows["subject"]),
        "gap_months": gap.months,
        "truth": gap.origin,
        "ssim": ssim(image, truth).tolist(),
        "mse": mse(image, truth).tolist(),
    }
    if estimator is not None and gap.ventricle_ml is not None:
        volume = estimator.predict(image[:, 0].numpy())
        columns["ventricle_error_ml"] = np.abs(volume - gap.ventricle_ml)
    return pd.DataFrame(columns)


def _findings(table: pd.DataFrame) -> Findings:
    visited = table[table["truth"] == "visit"]
    values: dict[str, Any] = {}
    for against, ending in ((SCAN, ""), (AUTOENCODER, "_through_autoencoder")):
        part = visited[visited["against"] == against]
        values |= _values(part.pivot(index="subject", columns="kind", values="ssim"), ending=ending)
    subjects = int(visited["subject"].nunique())
    counts = {
        "scans": subjects * VISITS,
        "subjects": subjects,
        "rendered": int(table.loc[table["truth"] == "rendered", "subject"].nunique()),
    }
    return Findings(values, _by_gap(table), table, counts)


def _values(wide: pd.DataFrame, *, ending: str) -> dict[str, Any]:
    """Main numbers against one reference; "copy" is the mean over both outer visits."""
    wide = wide.assign(copy=(wide["copy_first"] + wide["copy_last"]) / 2)
    kinds = {"": "interpolated", "_added": "interpolated_added", "_copy": "copy", "_voxel_mean": "voxel_mean"}
    values: dict[str, Any] = {}
    for key, kind in kinds.items():
        if kind in wide:
            mean, interval = mean_with_interval(wide[kind], wide.index)
            name = f"interpolation_ssim{key}{ending}"
            values |= {name: mean, f"{name}_ci": interval}
    gain = mean_with_interval(wide["interpolated"] - wide["copy"], wide.index)
    name = f"interpolation_gain_over_copy{ending}"
    return values | {name: gain[0], f"{name}_ci": gain[1]}


def _by_gap(table: pd.DataFrame) -> pd.DataFrame:
    """One row a gap, reference and kind, with the interval of the SSIM."""
    summary = []
    keys = ["gap_months", "truth", "against", "kind"]
    for key, part in table.groupby(keys, sort=False):
        mean, low, high = float(part["ssim"].mean()), np.nan, np.nan
        if len(part) > 1:
            mean, (low, high) = mean_with_interval(part["ssim"], part["subject"])
        row = {**dict(zip(keys, key, strict=True)), "subjects": len(part)}
        row |= {"ssim": mean, "ssim_low": low, "ssim_high": high, "mse": part["mse"].mean()}
        if "ventricle_error_ml" in part:
            row["ventricle_error_ml"] = part["ventricle_error_ml"].mean()
        summary.append({**row, "meaning": KINDS[row["kind"]]})
    return pd.DataFrame(summary)
