# SPDX-License-Identifier: Apache-2.0
"""Every solver with every number of steps in one table, beside the autoencoder and walks without a code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ldae.data.artefact import sha256_bytes, sha256_json
from ldae.diffusion.samplers import SOLVERS, Solver, solver_levels
from ldae.errors import InputError
from ldae.evaluation.bootstrap import Weights, with_intervals
from ldae.evaluation.codes import pipeline_folder
from ldae.evaluation.likeness import PUBLISHED_RULE, RULE, Panel
from ldae.evaluation.material import Material, first_visits, open_scans
from ldae.evaluation.record import Findings, evaluate_once
from ldae.evaluation.sweep import (
    AUTOENCODER,
    BOTH,
    MOMENTS,
    WHOLE,
    JudgedScans,
    Sweep,
    plan_walks,
)

NAME = "solvers"
STEPS = (5, 10, 20, 50, 100)
PUBLISHED_SOLVER: Solver = "ddim"
PUBLISHED_STEPS = (10, 20, 50, 100)
PARTS = "parts"
KEYS = ["kind", "solver", "encode_steps", "decode_steps", "against", "region"]
COSTS = ["network_calls", "encode_seconds", "decode_seconds", "auxiliary_bytes"]
BRAIN_NOTE = (
    "Brain: the mask that the column mask_path names, else the voxels above 0 of a scan without a skull; {} "
    "of {} scans have one. MS-SSIM counts a coarse window by the share of its central voxel that is inside, "
    "LPIPS sets both volumes to 0 outside."
)
PUBLISHED_NOTE = (
    "Published metric settings: x0 clipped to [-1, 1], SSIM with a window of 3, LPIPS on half of the slices "
    "of each plane, drawn at random, intensities in [0, 1], the planes' means added up. Preprocessing is "
    "that of the pipeline."
)


def evaluate_solvers(
    pipeline: str | Path,
    cohort: str | Path,
    *,
    out: str | Path,
    split: str = "test",
    solvers: Sequence[Solver] | None = None,
    steps: Sequence[int] | None = None,
    decode_steps: Sequence[int] | None = None,
    reference_compatible: bool = False,
    seed: int = 0,
    limit: int | None = 4,
    device: str = "auto",
    progress: bool = False,
    run_dir: str | Path | None = None,
) -> Path:
    """Take scans up to noise and back with every solver and pair of step counts, and compare.

    Beside "reconstruction", with both codes, stand "autoencoder" (the ceiling), "lddim" (the denoiser alone,
    without a semantic code both ways, with equal step counts) and "semantic_only" (fresh noise). A walk that
    is done is kept in parts/ and not done again; each way up is taken once for all step counts down.

    Args:
        pipeline: Folder of the pipeline.
        cohort: The cohort's table.
        out: Folder of the results, such as evaluation/solvers of the run.
        split: Scans to judge it on.
        solvers: How the steps are taken, both ways; None takes all, or "ddim" where `reference_compatible`.
        steps: Network calls from latent to noise; None takes 5, 10, 20, 50 and 100, without the 5 where
            `reference_compatible`.
        decode_steps: Network calls from noise to latent; None takes `steps`. Solver "exact" takes equal ones.
        reference_compatible: Take sampler and metrics as published, see `PUBLISHED_NOTE`.
        seed: Seed of the fresh noise of "semantic_only", one draw a scan, and of the subjects.
        limit: First visits of so many subjects at most, drawn at random; None takes all. All solvers and the
            default steps are 7,585 network calls a subject.
        device: "auto" (a GPU where there is one), "cpu", "cuda:1" and so on.
        progress: Show a bar.
        run_dir: Folder of the run, for its cache of volumes; None takes the one that holds the pipeline.

    Returns:
        The folder, with table.csv (by walk, reference and region), scans.csv and result.json.

    Raises:
        InputError: `limit` is below 2, the cohort has faults, steps or solvers do not go together, or another
            solver than "ddim" is to be `reference_compatible`.
    """
    if limit is not None and limit < 2:
        raise InputError(f"limit must be at least 2 subjects, got {limit}.")
    chosen = list(dict.fromkeys(solvers or ([PUBLISHED_SOLVER] if reference_compatible else SOLVERS)))
    if reference_compatible and chosen != [PUBLISHED_SOLVER]:
        raise InputError(
            f"The published sampler must be {PUBLISHED_SOLVER}, got {', '.join(chosen)}. Leave --solver out."
        )
    up = list(dict.fromkeys(steps or (PUBLISHED_STEPS if reference_compatible else STEPS)))
    down = list(dict.fromkeys(decode_steps or up))
    walks = plan_walks(chosen, up=up, down=down)
    material = Material.of(
        pipeline, cohort, out=out, run_dir=run_dir, split=split, device=device, progress=progress
    )
    rule = PUBLISHED_RULE if reference_compatible else RULE

    def compute() -> Findings:
        scans = open_scans(material)
        networks = scans.pipeline.networks
        for walk in walks:
            for count in (walk.up or walk.down, walk.down):
                solver_levels(walk.solver, schedule=networks.diffusion.schedule, steps=count)
        rows = first_visits(scans.rows, limit=limit, seed=seed)
        table = material.cohort
        judged = JudgedScans.of(scans, rows, folder=table if table.is_dir() else table.parent)
        panel = Panel.of(tuple(judged.volumes.shape[2:]), rule=rule, device=networks.device)
        parts = _parts(material.out, judged, panel=panel, decides=[seed, reference_compatible])
        sweep = Sweep(judged, panel, parts, seed=seed, clip_sample=reference_compatible)
        found = _findings(sweep.run(walks, progress=progress), judged, panel=panel)
        found.notes += [PUBLISHED_NOTE] if reference_compatible else []
        return found

    settings = {
        "solvers": chosen,
        "steps": up,
        "decode_steps": down,
        "reference_compatible": reference_compatible,
        "clip_sample": reference_compatible,
        "ssim_window": rule.ssim_window,
        "seed": seed,
        "limit": limit,
    }
    return evaluate_once(material, name=NAME, settings=settings, compute=compute)


def _parts(out: Path, judged: JudgedScans, *, panel: Panel, decides: list[Any]) -> Path:
    """Folder of the walks that were done with the same pipeline, scans, brains and metrics."""
    brains = [None if mask is None else sha256_bytes(mask.numpy().tobytes()) for mask in judged.brain]
    mark = sha256_json([list(judged.rows["key"]), brains, panel.names, *decides])
    return pipeline_folder(out / PARTS, pipeline=judged.scans.pipeline.sha256, name=mark[:16])


def _findings(table: pd.DataFrame, judged: JudgedScans, *, panel: Panel) -> Findings:
    summary = pd.DataFrame(
        [
            {**dict(zip(KEYS, keys, strict=True)), **_summarise(group, metrics=panel.names)}
            for keys, group in table.groupby(KEYS, dropna=False, sort=False)
            if group["subject"].nunique() > 1
        ]
    )
    steps = ["encode_steps", "decode_steps", "network_calls", "auxiliary_bytes"]
    summary = summary.astype(dict.fromkeys(steps, "Int64"))
    if panel.levels:
        summary = summary.assign(ms_ssim_levels=panel.levels)
    values = {"autoencoder_ssim": float(summary["ssim"].iloc[0]), "solvers": _at_a_glance(summary)}
    known = sum(mask is not None for mask in judged.brain)
    counts = {"scans": len(judged.rows), "subjects": int(judged.rows["subject"].nunique())}
    notes = [BRAIN_NOTE.format(known, len(judged.rows)), *panel.notes]
    return Findings(values, summary, table.drop(columns="place"), counts, notes)


def _summarise(group: pd.DataFrame, *, metrics: list[str]) -> dict[str, Any]:
    """Means with intervals, and what the walk cost; latents are told with the whole volume."""
    whole = bool((group["region"] == WHOLE).all())
    noisy = whole and bool(group[MOMENTS[0]].notna().all())
    columns = group[[*metrics, *(MOMENTS if noisy else ())]].to_numpy(dtype=np.float64)

    def statistic(weights: Weights) -> dict[str, NDArray[np.float64]]:
        means = (weights @ columns / weights.sum(axis=1, keepdims=True)).T
        found = dict(zip(metrics, means[: len(metrics)], strict=True))
        return found | (_shape(means[len(metrics) :]) if noisy else {})

    row: dict[str, Any] = {"scans": len(group)}
    for name, value in with_intervals(statistic, group["subject"]).items():
        if isinstance(value, list):
            low, high = value
            row |= {f"{name.removesuffix('_ci')}_low": low, f"{name.removesuffix('_ci')}_high": high}
        else:
            row[name] = value
    error = {"latent_error": group["latent_error"].max()} if whole else {}
    return {**row, **error, **group[COSTS].iloc[0].to_dict()}


def _shape(moments: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Mean, standard deviation and kurtosis (3 if Gaussian) from the first four moments about 0 [4, R]."""
    first, second, third, fourth = moments
    variance = second - first**2
    central = fourth - 4 * first * third + 6 * first**2 * second - 3 * first**4
    return {
        "noise_mean": first,
        "noise_std": np.sqrt(variance),
        "noise_kurtosis": central / variance**2,
    }


def _at_a_glance(summary: pd.DataFrame) -> list[dict[str, Any]]:
    """Both codes against the autoencoder's reconstruction, the whole volume, equal step counts."""
    chosen = summary[
        (summary["kind"] == BOTH)
        & (summary["against"] == AUTOENCODER)
        & (summary["region"] == WHOLE)
        & (summary["encode_steps"] == summary["decode_steps"])
    ]
    return [
        {
            "solver": row["solver"],
            "steps": int(row["encode_steps"]),
            "ssim": float(row["ssim"]),
            "ssim_ci": [float(row["ssim_low"]), float(row["ssim_high"])],
            "psnr": float(row["psnr"]),
            "noise_std": float(row["noise_std"]),
            "noise_std_ci": [float(row["noise_std_low"]), float(row["noise_std_high"])],
            "noise_kurtosis": float(row["noise_kurtosis"]),
            "latent_error": float(row["latent_error"]),
            "auxiliary_bytes": int(row["auxiliary_bytes"]),
            "seconds": float(row["encode_seconds"] + row["decode_seconds"]),
        }
        for row in chosen.to_dict("records")
    ]
