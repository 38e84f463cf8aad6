# SPDX-License-Identifier: Apache-2.0
"""How well scans come back: from the latent alone, from both codes, and from the semantic code alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from ldae.diffusion.samplers import DEFAULT_SOLVER, Solver
from ldae.errors import InputError
from ldae.evaluation.bootstrap import mean_with_interval
from ldae.evaluation.codes import EncodedScans, StoredScans, batches, encode_scans
from ldae.evaluation.image_metrics import SSIM_WINDOW, mse, psnr, ssim
from ldae.evaluation.material import SCANS_AT_ONCE, Material, ScanSet, first_visits, open_scans
from ldae.evaluation.record import Findings, evaluate_once
from ldae.evaluation.workers import side_by_side
from ldae.pipeline.networks import fresh_noise

NAME = "reconstruction"
Row = tuple[int, str, str, float, float, float]  # place, kind, against and METRICS
METRICS = {"ssim": ssim, "psnr": psnr, "mse": mse}
INPUT, AUTOENCODER = "input", "autoencoder"
# Key in the summary: what is judged, against what, by which metric.
VALUES = {
    "autoencoder_ssim": ("autoencoder", INPUT, "ssim"),
    "autoencoder_psnr": ("autoencoder", INPUT, "psnr"),
    "reconstruction_ssim": ("reconstruction", AUTOENCODER, "ssim"),
    "semantic_only_ssim": ("semantic_only", AUTOENCODER, "ssim"),
}


def evaluate_reconstruction(
    pipeline: str | Path,
    cohort: str | Path,
    *,
    out: str | Path,
    split: str = "test",
    steps: int = 20,
    decode_steps: int | None = None,
    solver: Solver = DEFAULT_SOLVER,
    seed: int = 0,
    limit: int | None = 48,
    device: str = "auto",
    progress: bool = False,
    run_dir: str | Path | None = None,
) -> Path:
    """Compare what comes back with the input and with the autoencoder's own reconstruction.

    The autoencoder and the stochastic codes' mean and spread are measured on every scan of the split; what
    has to be decoded from noise on the first visits of `limit` subjects. SSIM has a Gaussian window of 11.

    Args:
        pipeline: Folder of the pipeline.
        cohort: The cohort's table.
        out: Folder of the results, such as evaluation/reconstruction of the run.
        split: Scans to judge it on.
        steps: Network calls from latent to noise.
        decode_steps: Network calls from noise to latent; None takes `steps`.
        solver: How the steps are taken, both ways.
        seed: Seed of the fresh noise of "semantic_only", one draw a scan, and of the subjects.
        limit: So many subjects at most are decoded, drawn at random; None decodes every scan of the split.
        device: "auto" (a GPU where there is one), "cpu", "cuda:1" and so on.
        progress: Show a bar.
        run_dir: Folder of the run, for its cache of volumes; None takes the one that holds the pipeline.

    Returns:
        The folder, with table.csv, scans.csv and result.json.

    Raises:
        InputError: `limit` is below 2, the cohort has faults, or "exact" is given two step counts.
    """
    if limit is not None and limit < 2:
        raise InputError(f"limit must be at least 2 subjects, got {limit}.")
    material = Material.of(
        pipeline, cohort, out=out, run_dir=run_dir, split=split, device=device, progress=progress
    )
    down = steps if decode_steps is None else decode_steps
    if solver == "exact" and steps != down:
        raise InputError(f"Solver exact must take as many steps down as up, got {steps} and {down}.")

    def compute() -> Findings:
        scans = open_scans(material)
        codes = encode_scans(scans, material, steps=steps, solver=solver)
        decoded = scans.rows if limit is None else first_visits(scans.rows, limit=limit, seed=seed)

        def compare(rows: pd.DataFrame) -> list[Row]:
            return _compare(
                scans, codes, rows=rows, decoded=set(decoded.index), seed=seed, walk=(solver, down)
            )

        parts = side_by_side(
            compare, batches(scans.rows), networks=scans.pipeline.networks, name=NAME, progress=progress
        )
        table = pd.DataFrame(chain.from_iterable(parts), columns=["place", "kind", "against", *METRICS])
        named = scans.rows.loc[table.pop("place"), ["subject", "session"]].reset_index(drop=True)
        return _findings(named.join(table), codes, decoded=decoded)

    settings = {
        "steps": steps,
        "decode_steps": down,
        "solver": solver,
        "seed": seed,
        "limit": limit,
        "ssim_window": SSIM_WINDOW,
    }
    return evaluate_once(material, name=NAME, settings=settings, compute=compute)


def _compare(
    scans: ScanSet,
    codes: StoredScans,
    *,
    rows: pd.DataFrame,
    decoded: set[int],
    seed: int,
    walk: tuple[Solver, int],
) -> list[Row]:
    """One row a scan, kind of reconstruction and reference."""
    part = codes.take(list(rows.index))
    volumes, plain = scans.volumes(rows), scans.pipeline.networks.expand(part.latents)
    found = _measured(rows, plain, kind="autoencoder", references={INPUT: volumes})
    places = [place for place, index in enumerate(rows.index) if index in decoded]
    if places:
        references = {INPUT: volumes[places], AUTOENCODER: plain[places]}
        chosen = rows.iloc[places]
        for kind, image in _decoded(scans, part.take(places), rows=chosen, seed=seed, walk=walk):
            found += _measured(chosen, image, kind=kind, references=references)
    return found


def _decoded(
    scans: ScanSet, codes: EncodedScans, *, rows: pd.DataFrame, seed: int, walk: tuple[Solver, int]
) -> Iterator[tuple[str, Tensor]]:
    """Scans from both codes, and from the semantic one with noise that depends on seed and row alone."""
    fresh = fresh_noise(codes.stochastic.shape[1:], seeds=[(seed, int(index)) for index in rows.index])
    solver, steps = walk
    kinds = (("reconstruction", codes.stochastic, codes.previous), ("semantic_only", fresh, None))
    for kind, noise, previous in kinds:
        image = scans.pipeline.decode_tensors(
            codes.semantic,
            noise,
            steps=steps,
            solver=solver,
            previous=previous,
            batch_size=SCANS_AT_ONCE,
        )
        yield kind, image


def _measured(rows: pd.DataFrame, image: Tensor, *, kind: str, references: dict[str, Tensor]) -> list[Row]:
    # Plain numbers: a small array made between large ones keeps the allocator from using their room again.
    found: list[Row] = []
    for against, reference in references.items():
        values = [metric(image, reference).tolist() for metric in METRICS.values()]
        found += [(place, kind, against, *each) for place, *each in zip(rows.index, *values, strict=True)]
    return found


def _findings(table: pd.DataFrame, codes: StoredScans, *, decoded: pd.DataFrame) -> Findings:
    summary = [
        _summarise(group, kind=str(kind), against=str(against))
        for (kind, against), group in table.groupby(["kind", "against"], sort=False)
    ]
    known = {(row["kind"], row["against"]): row for row in summary}
    values: dict[str, Any] = {}
    for key, (kind, against, metric) in VALUES.items():
        row = known[kind, against]
        values |= {key: row[metric], f"{key}_ci": [row[f"{metric}_low"], row[f"{metric}_high"]]}
    values |= _moments(codes.noise)
    counts = {
        "scans": len(codes),
        "subjects": int(table["subject"].nunique()),
        "decoded_scans": len(decoded),
        "decoded_subjects": int(decoded["subject"].nunique()),
    }
    return Findings(values, pd.DataFrame(summary), table, counts)


def _moments(noise: Callable[[], Iterator[Tensor]]) -> dict[str, float]:
    """Mean, standard deviation and kurtosis of all elements of the noise codes, gone through in parts."""

    total, count = 0.0, 0
    for part in noise():
        total += float(part.double().sum())
        count += part.numel()
    mean, squares, fourth = total / count, 0.0, 0.0
    for part in noise():
        square = (part.double() - mean).square()
        squares += float(square.sum())
        fourth += float(square.square().sum())
    return {
        "noise_code_mean": mean,
        "noise_code_std": math.sqrt(squares / (count - 1)),
        "noise_code_kurtosis": fourth / count / (squares / count) ** 2,
    }


def _summarise(group: pd.DataFrame, *, kind: str, against: str) -> dict[str, Any]:
    row: dict[str, Any] = {"kind": kind, "against": against, "scans": len(group)}
    for metric in METRICS:
        mean, (low, high) = mean_with_interval(group[metric], group["subject"])
        row |= {metric: mean, f"{metric}_low": low, f"{metric}_high": high}
    return row
