# SPDX-License-Identifier: Apache-2.0
"""Whether what lies between two visits resembles the visit that was really between them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from ldae.diffusion.interpolation import lerp, slerp
from ldae.diffusion.samplers import DEFAULT_SOLVER, Solver
from ldae.errors import InputError
from ldae.evaluation.bootstrap import mean_with_interval
from ldae.evaluation.codes import EncodedScans, encode_scans
from ldae.evaluation.image_metrics import SSIM_WINDOW, mse, ssim
from ldae.evaluation.material import SCANS_AT_ONCE, Material, ScanSet, open_scans, visit_order
from ldae.evaluation.record import Findings, evaluate_once
from ldae.evaluation.workers import side_by_side
from ldae.pipeline.interpolation import check_fractions

NAME = "interpolation"
VISITS = 3
Triples = Sequence[tuple[int, int, int]]
KINDS = {
    "interpolated": "decoded from the codes of the outer visits",
    "copy_first": "the first visit itself",
    "copy_last": "the last visit itself",
    "voxel_mean": "the voxel-wise mean of the outer visits",
    "autoencoder": "the middle visit through the autoencoder: the ceiling",
}


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
    device: str = "auto",
    progress: bool = False,
    run_dir: str | Path | None = None,
) -> Path:
    """Decode the middle of three visits from the codes of the outer two and compare it with the true scan.

    Semantic codes are mixed on the straight line, stochastic ones on the sphere. Beside it stand the outer
    visits themselves (their mean over both), their voxel-wise mean, and the autoencoder's ceiling.

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
        device: "auto" (a GPU where there is one), "cpu", "cuda:1" and so on.
        progress: Show a bar.
        run_dir: Folder of the run, for its cache of volumes; None takes the one that holds the pipeline.

    Returns:
        The folder, with table.csv, scans.csv and result.json.

    Raises:
        InputError: Fewer than two subjects of the split have three visits, or the fraction is outside 0..1.
    """
    check_fractions([fraction], extrapolate=False)
    material = Material.of(
        pipeline, cohort, out=out, run_dir=run_dir, split=split, device=device, progress=progress
    )
    down = steps if decode_steps is None else decode_steps

    def compute() -> Findings:
        scans = open_scans(material)
        triples = find_triples(scans.rows, limit=limit, seed=seed)
        if len(triples) < 2:
            raise InputError(
                f"At least 2 subjects of split {split} must have {VISITS} visits, got {len(triples)} in "
                f"{cohort}. Leave this evaluation out for such a cohort."
            )
        codes = encode_scans(scans, material, steps=steps, solver=solver)

        def compare(some: Triples) -> pd.DataFrame:
            return _compare(scans, codes, triples=some, fraction=fraction, steps=down)

        chunks = [triples[start : start + SCANS_AT_ONCE] for start in range(0, len(triples), SCANS_AT_ONCE)]
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
        "ssim_window": SSIM_WINDOW,
    }
    return evaluate_once(material, name=NAME, settings=settings, compute=compute)


def find_triples(rows: pd.DataFrame, *, limit: int | None = None, seed: int = 0) -> Triples:
    """Index of the first three visits of every subject that has them, or of `limit` such subjects."""
    visits = [list(group.index) for _, group in visit_order(rows).groupby("subject", sort=False)]
    triples = [(found[0], found[1], found[2]) for found in visits if len(found) >= VISITS]
    chosen = np.random.default_rng(seed).permutation(len(triples))[:limit]
    return [triples[place] for place in np.sort(chosen)]


def _compare(
    scans: ScanSet,
    codes: EncodedScans,
    *,
    triples: Triples,
    fraction: float,
    steps: int,
) -> pd.DataFrame:
    """One row a subject and kind."""
    first, middle, last = (list(places) for places in zip(*triples, strict=True))
    start, end, truth = (scans.volumes(scans.rows.loc[places]) for places in (first, last, middle))
    images = {
        "interpolated": scans.pipeline.decode_tensors(
            lerp(codes.semantic[first], codes.semantic[last], fraction=fraction),
            slerp(codes.stochastic[first], codes.stochastic[last], fraction=fraction),
            steps=steps,
            batch_size=SCANS_AT_ONCE,
        ),
        "copy_first": start,
        "copy_last": end,
        "voxel_mean": lerp(start, end, fraction=fraction),
        "autoencoder": scans.pipeline.networks.expand(codes.latents[middle]),
    }
    rows = scans.rows.loc[middle]
    return pd.concat([_measured(rows, image, truth=truth, kind=kind) for kind, image in images.items()])


def _measured(rows: pd.DataFrame, image: Tensor, *, truth: Tensor, kind: str) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "subject": list(rows["subject"]),
            "session": list(rows["session"]),
            "kind": kind,
            "ssim": ssim(image, truth).tolist(),
            "mse": mse(image, truth).tolist(),
        }
    )


def _findings(table: pd.DataFrame) -> Findings:
    wide = table.pivot(index="subject", columns="kind", values="ssim")
    wide["copy"] = (wide["copy_first"] + wide["copy_last"]) / 2
    values: dict[str, Any] = {}
    for key, kind in (("", "interpolated"), ("_copy", "copy"), ("_voxel_mean", "voxel_mean")):
        mean, interval = mean_with_interval(wide[kind], wide.index)
        values |= {f"interpolation_ssim{key}": mean, f"interpolation_ssim{key}_ci": interval}
    gain = mean_with_interval(wide["interpolated"] - wide["copy"], wide.index)
    values |= {"interpolation_gain_over_copy": gain[0], "interpolation_gain_over_copy_ci": gain[1]}
    summary = []
    for kind, meaning in KINDS.items():
        part = table[table["kind"] == kind]
        mean, (low, high) = mean_with_interval(part["ssim"], part["subject"])
        row = {"kind": kind, "ssim": mean, "ssim_low": low, "ssim_high": high, "mse": part["mse"].mean()}
        summary.append({**row, "meaning": meaning})
    counts = {"scans": len(wide) * VISITS, "subjects": len(wide)}
    return Findings(values, pd.DataFrame(summary), table, counts)
