# SPDX-License-Identifier: Apache-2.0
"""Whether the semantic code is used: the denoising error with the right code, another subject's, and none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from ldae.diffusion.model import GuidedDiffusion
from ldae.diffusion.prediction import add_noise, v_from, x0_from_eps
from ldae.diffusion.samplers import Solver
from ldae.evaluation.bootstrap import mean_with_interval
from ldae.evaluation.codes import batches, encode_scans
from ldae.evaluation.material import SCANS_AT_ONCE, Material, ScanSet, open_scans, other_subject
from ldae.evaluation.record import Findings, evaluate_once
from ldae.pipeline.networks import fresh_noise

NAME = "code"
CODES = ("right", "shuffled", "none")
LEVELS = tuple(range(25, 1000, 50))


def evaluate_code(
    material: Material,
    *,
    levels: Sequence[int] = LEVELS,
    encode_steps: int = 20,
    solver: Solver = "ddim-next",
    seed: int = 0,
) -> dict[str, Any]:
    """Measure the error of the v estimate with the scan's own code, with another subject's, and with G = 0.

    The mean over scans and levels of the squared error per latent element, unweighted. The three see the same
    noise. A network that predicts the noise is judged by the v that its answer implies.

    Args:
        material: Pipeline, cohort and where the results go.
        levels: Noise levels t; of another schedule than 1,000 levels the same shares.
        encode_steps: Of the stored codes, which other evaluations use too; the error does not depend on it.
        solver: The same.
        seed: Seed of the noise, and of who gets whose code.

    Returns:
        The content of evaluation/code/result.json.
    """

    def compute() -> Findings:
        scans = open_scans(material)
        codes = encode_scans(scans, material, steps=encode_steps, solver=solver)
        partner = other_subject(list(scans.rows["subject"]), seed=seed)
        table = _errors(
            scans,
            latents=codes.latents,
            semantic=codes.semantic,
            shuffled=codes.semantic[torch.from_numpy(partner)],
            levels=_levels(levels, total=len(scans.pipeline.networks.diffusion.schedule)),
            seed=seed,
            progress=material.progress,
        )
        return _findings(table)

    return evaluate_once(
        material, name=NAME, settings={"levels": list(levels), "seed": seed}, compute=compute
    )


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
    features = model.unet.trunk(z, t)
    output = model.unet.up(features).float()
    errors = []
    for code in codes:
        guided = output
        if code is not None:
            guided = model.prediction.guide(output, model.estimator(features, code).float(), t)
        errors.append((_as_v(model, guided, z=z, t=t) - target).square().flatten(1).mean(1))
    return errors


def _as_v(model: GuidedDiffusion, output: Tensor, *, z: Tensor, t: Tensor) -> Tensor:
    if model.prediction.name == "v":
        return output
    signal = model.schedule.signal(t, z.ndim)
    eps = model.prediction.eps(output, z, t)
    return v_from(x0_from_eps(z, eps, signal), eps, signal)


def _levels(levels: Sequence[int], *, total: int) -> list[int]:
    return [level * total // 1000 for level in levels]


def _errors(
    scans: ScanSet,
    *,
    latents: Tensor,
    semantic: Tensor,
    shuffled: Tensor,
    levels: Sequence[int],
    seed: int,
    progress: bool,
) -> pd.DataFrame:
    """One row a scan and level."""
    model, device = scans.pipeline.networks.diffusion, scans.pipeline.networks.device
    found = []
    with tqdm(total=len(latents) * len(levels), desc=NAME, disable=not progress) as bar:
        for rows in batches(scans.rows, size=SCANS_AT_ONCE):
            places = list(rows.index)
            z0, y, other = (part[places].to(device) for part in (latents, semantic, shuffled))
            for number, level in enumerate(levels):
                seeds = [(seed, len(levels) * place + number) for place in places]
                noise = fresh_noise(z0.shape[1:], seeds=seeds)
                t = torch.full((len(z0),), level, device=device)
                errors = v_errors(model, z0, t=t, noise=noise.to(device), codes=(y, other, None))
                columns = {name: error.tolist() for name, error in zip(CODES, errors, strict=True)}
                found.append(rows[["subject", "session"]].assign(level=level, **columns))
                bar.update(len(rows))
    return pd.concat(found, ignore_index=True)


def _findings(table: pd.DataFrame) -> Findings:
    columns = list(CODES)
    scans = table.groupby(["subject", "session"], sort=False)[columns].mean().reset_index()
    values: dict[str, Any] = {}
    for name in columns:
        values[f"gap_{name}"], values[f"gap_{name}_ci"] = mean_with_interval(scans[name], scans["subject"])
    values["gap_right_of_shuffled"] = values["gap_right"] / values["gap_shuffled"]
    values["gap_right_of_none"] = values["gap_right"] / values["gap_none"]
    by_level = table.groupby("level")[columns].mean().reset_index()
    counts = {"scans": len(scans), "subjects": int(scans["subject"].nunique())}
    return Findings(values, by_level, scans, counts)
