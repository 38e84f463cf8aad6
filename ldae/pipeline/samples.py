# SPDX-License-Identifier: Apache-2.0
"""New scans from the code sampler, which is an optional component of a pipeline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from ldae import __version__
from ldae.data.artefact import Component, write_json
from ldae.data.embeddings import check_embeddings, code_array, read_embeddings
from ldae.data.scan import Scan
from ldae.data.spec import PreprocessingSpec
from ldae.diffusion.code_sampler import CodeSampler
from ldae.diffusion.samplers import DEFAULT_SOLVER, Solver
from ldae.errors import InputError
from ldae.pipeline.code import Code, Place
from ldae.pipeline.derivatives import Derivative, ScanName, label
from ldae.pipeline.folder import MADE_BY, check_component, component_folder
from ldae.pipeline.networks import MOST_AT_ONCE, fresh_noise
from ldae.pipeline.novelty import judge_scans
from ldae.pipeline.pipeline import LDAEPipeline
from ldae.pipeline.scan_jobs import RESULT_NAME, JobResult, Sampling
from ldae.stages.components import load_code_sampler

KIND = "code_sampler"
DESCRIPTION = "A scan of nobody: semantic code from the code sampler, stochastic code from noise."


def load_sampler(pipeline: LDAEPipeline) -> tuple[CodeSampler, Component]:
    """The code sampler of a pipeline, on its device, and what its folder says of it.

    Raises:
        FileNotFoundError: The pipeline has none; the message says what makes it.
        CheckpointError: It is damaged, or was trained on the codes of another pipeline.
    """
    if KIND not in pipeline.index.components:
        raise FileNotFoundError(
            f"{pipeline.folder} has no code sampler, which new scans are drawn from. Run: {MADE_BY[KIND]}, "
            "with the --run_dir of this pipeline"
        )
    sampler, component = load_code_sampler(component_folder(pipeline.folder, KIND))
    check_component(component, index=pipeline.index, folder=pipeline.folder)
    return sampler.to(pipeline.networks.device), component


def draw_semantic(sampler: CodeSampler, classes: Sequence[str | None], *, seed: int) -> Tensor:
    """Semantic codes [N, D], one of each class named, None for any; each has a seed of its own."""
    device = sampler.mean.device
    # two streams a scan: odd numbers for the semantic code, even ones for the stochastic code
    noise = fresh_noise([sampler.size], seeds=[(seed, 2 * number + 1) for number in range(len(classes))])
    labels = torch.tensor([sampler.label(name) for name in classes], device=device)
    return sampler.draw(noise.to(device), labels).float().cpu()


def draw_stochastic(pipeline: LDAEPipeline, n: int, *, seed: int) -> Tensor:
    """Stochastic codes [N, C, h, w, d] beside those of `draw_semantic`."""
    shape = pipeline.networks.diffusion.estimator.latent_shape
    return fresh_noise(shape, seeds=[(seed, 2 * number) for number in range(n)])


def draw_codes(
    pipeline: LDAEPipeline,
    n: int,
    *,
    target_class: str | None = None,
    seed: int = 0,
    solver: Solver = DEFAULT_SOLVER,
) -> list[Code]:
    """Codes of new scans on the pipeline's grid; the first ones are the same whatever `n` is.

    Args:
        pipeline: A pipeline with a code sampler.
        n: How many.
        target_class: Class to draw from; None draws from all.
        seed: Another seed, other codes.
        solver: How they are to be decoded.

    Raises:
        FileNotFoundError: The pipeline has no code sampler; the message says what makes it.
        InputError: `n`, `seed` or the class is not allowed.
    """
    if n < 1 or seed < 0:
        raise InputError(f"n must be 1 or more and seed 0 or more, got n={n} and seed={seed}.")
    semantic = draw_semantic(load_sampler(pipeline)[0], [target_class] * n, seed=seed)
    pairs = zip(semantic, draw_stochastic(pipeline, n, seed=seed), strict=True)
    place = Place(centred_affine(pipeline.spec))
    return [Code(y, z, place, pipeline.sha256, solver=solver) for y, z in pairs]


def render_codes(
    pipeline: LDAEPipeline, codes: Sequence[Code], *, steps: int = 20, stop_fraction: float = 0.0
) -> list[Scan]:
    """Scans of drawn codes; unlike encoded ones they need no auxiliary for solver "exact"."""
    volumes = pipeline.decode_tensors(
        torch.stack([code.semantic for code in codes]),
        torch.stack([code.stochastic for code in codes]),
        steps=steps,
        solver=codes[0].solver,
        stop_fraction=stop_fraction,
    )
    return [code.place.scan(volume, pipeline.spec) for code, volume in zip(codes, volumes, strict=True)]


def centred_affine(spec: PreprocessingSpec) -> NDArray[np.float64]:
    """The pipeline's grid with its middle at 0 mm, [4, 4]."""
    affine = np.diag([*spec.spacing, 1.0])
    affine[:3, 3] = -(np.array(spec.size) - 1) / 2 * np.array(spec.spacing)
    return np.asarray(affine, dtype=np.float64)


def sample_scans(
    pipeline: LDAEPipeline,
    n: int,
    *,
    out: str | Path,
    target_class: str | None = None,
    seed: int = 0,
    sampling: Sampling | None = None,
    embeddings: str | Path | None = None,
    progress: bool = False,
) -> JobResult:
    """Draw new scans and write them as a derivative; desc-sample, or desc-sampleAD of a class.

    With the table of embeddings, each sidecar names the training scan that is most like it: the nearest to
    the scan as it was decoded, embedded again.

    Args:
        pipeline: A pipeline with a code sampler.
        n: How many.
        out: Folder of the derivative.
        target_class: Class to draw from; None draws from all.
        seed: Another seed, other scans.
        sampling: How codes are rendered.
        embeddings: Table of the codes of the training scans; None names no nearest one.
        progress: Show a bar.

    Raises:
        FileNotFoundError: The pipeline has no code sampler, or there are no such embeddings.
        CheckpointError: The embeddings were made by another pipeline.
        InputError: `n`, `seed`, the class or `sampling` is not allowed.
    """
    sampling = sampling or Sampling()
    sampling.check(pipeline.networks.diffusion.schedule)
    codes = draw_codes(pipeline, n, target_class=target_class, seed=seed, solver=sampling.solver)
    result, derivative, records = JobResult(Path(out) / RESULT_NAME), Derivative(out, sources=[]), []
    desc = "sample" if target_class is None else f"sample{label(target_class, prefix='')}"
    training = None if embeddings is None else TrainingScans(pipeline, embeddings)
    told = _told(pipeline, sampling, target_class=target_class, seed=seed)
    for number, scan in enumerate(_rendered(pipeline, codes, sampling=sampling, progress=progress)):
        novelty = judge_scans(pipeline.statistics, codes[number].semantic[None])[0]
        details = {**told, "Sample": number, "Novelty": novelty.verdict}
        if training is not None:
            details["NearestTrainingScan"] = training.nearest(scan)
        name = ScanName(f"synthetic{number:04d}")
        path = derivative.write(scan, name, desc=desc, description=DESCRIPTION, sources=[], details=details)
        result.paths.append(path)
        records.append({"path": path.relative_to(out).as_posix(), "desc": desc, **details})
    document = {
        "verb": "sample",
        "ldae_version": __version__,
        "pipeline": {"folder": str(pipeline.folder.absolute()), "sha256": pipeline.sha256},
        "sources": {},
        "outputs": records,
        "maps": [],
    }
    write_json(result.result, document)
    return result


class TrainingScans:
    """The training scans of a pipeline, by their codes.

    Args:
        pipeline: The pipeline.
        embeddings: Table of codes that it made.

    Raises:
        FileNotFoundError: There is no such table.
        CheckpointError: Another pipeline made it.
        InputError: It holds no training scan.
    """

    def __init__(self, pipeline: LDAEPipeline, embeddings: str | Path) -> None:
        frame = read_embeddings(embeddings)
        check_embeddings(frame, pipeline=pipeline.sha256, folder=pipeline.folder)
        self.pipeline = pipeline
        self.rows = frame[frame["split"] == "train"].reset_index(drop=True)
        if self.rows.empty:
            raise InputError(
                f"{embeddings} must hold scans of split train, got none. Embed the whole cohort."
            )
        self.codes = pipeline.statistics.whiten(code_array(self.rows))

    def nearest(self, scan: Scan) -> dict[str, Any]:
        """The training scan whose code is nearest to that of a scan, in training standard deviations."""
        code = self.pipeline.networks.describe(scan.data[None]).numpy()
        distances = np.linalg.norm(self.pipeline.statistics.whiten(code) - self.codes, axis=1)
        row = self.rows.iloc[int(distances.argmin())]
        return {
            "Subject": row["subject"],
            "Session": row["session"],
            "Path": row["path"],
            "Distance": float(distances.min()),
        }


def _rendered(
    pipeline: LDAEPipeline, codes: Sequence[Code], *, sampling: Sampling, progress: bool
) -> Iterator[Scan]:
    with tqdm(total=len(codes), desc="samples", disable=not progress) as bar:
        for start in range(0, len(codes), MOST_AT_ONCE):
            batch = codes[start : start + MOST_AT_ONCE]
            yield from render_codes(
                pipeline, batch, steps=sampling.down, stop_fraction=sampling.stop_fraction
            )
            bar.update(len(batch))


def _told(
    pipeline: LDAEPipeline, sampling: Sampling, *, target_class: str | None, seed: int
) -> dict[str, Any]:
    return {
        "PipelineSha256": pipeline.sha256,
        "CodeSamplerSha256": pipeline.index.components[KIND],
        "TargetClass": target_class,
        "Seed": seed,
        "DecodeSteps": sampling.down,
        "Solver": sampling.solver,
        "StopFraction": sampling.stop_fraction,
    }
