# SPDX-License-Identifier: Apache-2.0
"""Whether the semantic code is used: the denoising error with the right code, another subject's, and none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from ldae.diffusion.model import GuidedDiffusion
from ldae.diffusion.prediction import add_noise, v_from, x0_from_eps
from ldae.errors import InputError
from ldae.evaluation.bootstrap import mean_with_interval
from ldae.evaluation.codes import batches, compress_scans
from ldae.evaluation.material import Material, ScanSet, first_visits, open_scans, other_subject
from ldae.evaluation.record import Findings, evaluate_once
from ldae.evaluation.workers import side_by_side
from ldae.pipeline.networks import fresh_noise

NAME = "code"
CODES = ("right", "shuffled", "none")


def evaluate_code(
    pipeline: str | Path,
    cohort: str | Path,
    *,
    out: str | Path,
    split: str = "test",
    steps: int = 20,
    seed: int = 0,
    limit: int | None = None,
    device: str = "auto",
    progress: bool = False,
    run_dir: str | Path | None = None,
) -> Path:
    """Measure the error of the v estimate with the scan's own code, with another subject's, and with G = 0.

    The mean over scans and levels of the squared error per latent element, unweighted. The three see the same
    noise. A network that predicts the noise is judged by the v that its answer implies.

    Args:
        pipeline: Folder of the pipeline.
        cohort: The cohort's table.
        out: Folder of the results, such as evaluation/code of the run.
        split: Scans to judge it on.
        steps: Number of noise levels, spread evenly; 20 of 1,000 are t = 25, 75, ..., 975.
        seed: Seed of the noise, of who gets whose code, and of the subjects.
        limit: First visits of so many subjects at most, drawn at random; None takes every scan of the split.
        device: "auto" (a GPU where there is one), "cpu", "cuda:1" and so on.
        progress: Show a bar.
        run_dir: Folder of the run, for its cache of volumes; None takes the one that holds the pipeline.

    Returns:
        The folder, with table.csv (by level), scans.csv and result.json.

    Raises:
        InputError: `limit` is below 2, or the cohort has faults.
    """
    if limit is not None and limit < 2:
        raise InputError(f"limit must be at least 2 subjects, got {limit}.")
    material = Material.of(
        pipeline, cohort, out=out, run_dir=run_dir, split=split, device=device, progress=progress
    )

    def compute() -> Findings:
        return measure_gaps(open_scans(material), material, steps=steps, seed=seed, limit=limit)

    settings = {"levels": steps, "seed": seed, "limit": limit}
    return evaluate_once(material, name=NAME, settings=settings, compute=compute)


def measure_gaps(scans: ScanSet, material: Material, *, steps: int, seed: int, limit: int | None) -> Findings:
    """What `evaluate_code` finds; arguments as there."""
    compressed = compress_scans(scans, material)
    networks = scans.pipeline.networks
    chosen = scans.rows if limit is None else first_visits(scans.rows, limit=limit, seed=seed)
    partner = chosen.index[other_subject(list(chosen["subject"]), seed=seed)]
    shuffled = dict(zip(chosen.index, partner, strict=True))
    levels = spread_levels(steps, total=len(networks.diffusion.schedule))

    # Filled in place: small tables made between large tensors keep the allocator from using their room again.
    errors = np.empty((len(scans.rows), len(levels), len(CODES)))

    def measure(rows: pd.DataFrame) -> None:
        places = list(rows.index)
        semantic = compressed.semantic
        codes = (semantic[places], semantic[[shuffled[place] for place in places]], None)
        z0 = compressed.latents(places)
        for number, found in enumerate(
            _errors(scans, z0, codes=codes, places=places, levels=levels, seed=seed)
        ):
            errors[places, number] = found

    side_by_side(measure, batches(chosen), networks=networks, name=NAME, progress=material.progress)
    return _findings(chosen, errors[chosen.index], levels=levels)


def spread_levels(steps: int, *, total: int) -> list[int]:
    """The middles of `steps` equal parts of all noise levels.

    Raises:
        InputError: More parts than levels.
    """
    if not 1 <= steps <= total:
        raise InputError(f"steps must be between 1 and {total} noise levels, got {steps}.")
    return [(2 * part + 1) * total // (2 * steps) for part in range(steps)]


@torch.inference_mode()
def v_errors(
    model: GuidedDiffusion, z0: Tensor, *, t: Tensor, noise: Tensor, codes: Sequence[Tensor | None]
) -> list[Tensor]:
    """Mean squared error per latent element of the v estimate with each code, [B] each; None is G = 0.

    Args:
        model: Denoiser and gradient estimator.
        z0: Normalised latents [B, C, h, w, d].
        t: Levels [B].
        noise: Noise of the shape of `z0`.
        codes: Semantic codes [B, D]; the trunk is run once for all of them.
    """
    signal = model.schedule.signal(t, z0.ndim)
    z = add_noise(z0, noise, signal)
    target = v_from(z0, noise, signal)
    output, gradients = model.parts(z, t, [code for code in codes if code is not None])
    remaining = iter(gradients)
    errors = []
    for code in codes:
        guided = output if code is None else model.prediction.guide(output, next(remaining), t)
        errors.append((_as_v(model, guided, z=z, t=t) - target).square().flatten(1).mean(1))
    return errors


def _as_v(model: GuidedDiffusion, output: Tensor, *, z: Tensor, t: Tensor) -> Tensor:
    if model.prediction.name == "v":
        return output
    signal = model.schedule.signal(t, z.ndim)
    eps = model.prediction.eps(output, z, t)
    return v_from(x0_from_eps(z, eps, signal), eps, signal)


def _errors(
    scans: ScanSet,
    latents: Tensor,
    *,
    codes: Sequence[Tensor | None],
    places: Sequence[int],
    levels: Sequence[int],
    seed: int,
) -> Iterator[Tensor]:
    """Errors of some scans with each code [B, K], level by level."""
    networks = scans.pipeline.networks
    z0 = latents.to(networks.device)
    moved = [None if code is None else code.to(networks.device) for code in codes]
    for number, level in enumerate(levels):
        seeds = [(seed, len(levels) * place + number) for place in places]
        noise = fresh_noise(z0.shape[1:], seeds=seeds).to(z0)
        t = torch.full((len(z0),), level, device=z0.device)
        yield torch.stack(v_errors(networks.diffusion, z0, t=t, noise=noise, codes=moved), dim=1).cpu()


def _findings(rows: pd.DataFrame, errors: NDArray[np.float64], *, levels: Sequence[int]) -> Findings:
    """What errors [N, L, K] of scans, at levels and with codes, come to."""
    columns = list(CODES)
    scans = rows[["subject", "session"]].reset_index(drop=True)
    scans[columns] = errors.mean(axis=1)
    values: dict[str, Any] = {}
    for name in columns:
        values[f"gap_{name}"], values[f"gap_{name}_ci"] = mean_with_interval(scans[name], scans["subject"])
    values["gap_right_of_shuffled"] = values["gap_right"] / values["gap_shuffled"]
    values["gap_right_of_none"] = values["gap_right"] / values["gap_none"]
    by_level = pd.DataFrame(errors.mean(axis=0), columns=columns)
    by_level.insert(0, "level", levels)
    counts = {"scans": len(scans), "subjects": int(scans["subject"].nunique())}
    return Findings(values, by_level, scans, counts)
