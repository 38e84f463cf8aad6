# SPDX-License-Identifier: Apache-2.0
"""New scans from the code sampler, which is an optional component of a pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ldae import __version__
from ldae.data.artefact import write_json
from ldae.data.spec import PreprocessingSpec
from ldae.diffusion.code_sampler import CodeSampler
from ldae.errors import InputError
from ldae.pipeline.code import Code, Place
from ldae.pipeline.derivatives import Derivative, ScanName, label
from ldae.pipeline.folder import MADE_BY, check_component, component_folder
from ldae.pipeline.networks import MOST_AT_ONCE, fresh_noise
from ldae.pipeline.novelty import judge_scans
from ldae.stages.components import load_code_sampler

if TYPE_CHECKING:
    from ldae.pipeline.pipeline import LDAEPipeline

KIND = "code_sampler"
RESULT_NAME = "result.json"
DESCRIPTION = "A scan of nobody: semantic code from the code sampler, stochastic code from noise."


def load_sampler(pipeline: LDAEPipeline) -> CodeSampler:
    """The code sampler of a pipeline, on its device.

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
    return sampler.to(pipeline.networks.device)


def draw_codes(
    pipeline: LDAEPipeline, n: int, *, target_class: str | None = None, seed: int = 0, first: int = 0
) -> list[Code]:
    """Codes of new scans on the pipeline's grid; each has a seed of its own, so none depends on `n`.

    Args:
        pipeline: A pipeline with a code sampler.
        n: How many.
        target_class: Class to draw from; None draws from all.
        seed: Seed of all.
        first: Number of the first one.

    Raises:
        InputError: `n`, `seed` or the class is not allowed.
    """
    if n < 1 or seed < 0:
        raise InputError(f"n must be 1 or more and seed 0 or more, got n={n} and seed={seed}.")
    sampler = load_sampler(pipeline)
    wanted = sampler.label(target_class)
    numbers = range(first, first + n)
    # two streams a scan: odd numbers for the semantic code, even ones for the stochastic code
    noise = fresh_noise([sampler.size], seeds=[(seed, 2 * number + 1) for number in numbers])
    shape = pipeline.networks.diffusion.estimator.latent_shape
    stochastic = fresh_noise(shape, seeds=[(seed, 2 * number) for number in numbers])
    semantic = sampler.draw(noise.to(pipeline.networks.device), label=wanted).float().cpu()
    place = Place(centred_affine(pipeline.spec))
    pairs = zip(semantic, stochastic, strict=True)
    return [Code(y, z, place, pipeline.sha256) for y, z in pairs]


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
    steps: int = 20,
    progress: bool = False,
) -> Path:
    """Draw new scans and write them as a derivative; desc-sample, or desc-sampleAD of a class.

    Returns:
        The JSON file that lists them.
    """
    pipeline.networks.diffusion.schedule.grid(steps)
    codes = draw_codes(pipeline, n, target_class=target_class, seed=seed)
    derivative, records = Derivative(out, sources=[]), []
    desc = "sample" if target_class is None else f"sample{label(target_class, prefix='')}"
    with tqdm(total=n, desc="samples", disable=not progress) as bar:
        for start in range(0, n, MOST_AT_ONCE):
            batch = codes[start : start + MOST_AT_ONCE]
            for number, scan in enumerate(pipeline.decode(batch, steps=steps), start=start):
                novelty = judge_scans(pipeline.statistics, codes[number].semantic[None])[0]
                details = {
                    "PipelineSha256": pipeline.sha256,
                    "CodeSamplerSha256": pipeline.index.components[KIND],
                    "TargetClass": target_class,
                    "Seed": seed,
                    "Sample": number,
                    "DecodeSteps": steps,
                    "Verdict": novelty.verdict,
                }
                name = ScanName(f"synthetic{number:04d}")
                path = derivative.write(
                    scan, name, desc=desc, description=DESCRIPTION, sources=[], details=details
                )
                records.append({"path": str(path), "desc": desc, **details})
                bar.update()
    document = {
        "verb": "sample",
        "ldae_version": __version__,
        "pipeline": {"folder": str(pipeline.folder), "sha256": pipeline.sha256},
        "sources": {},
        "outputs": records,
    }
    write_json(Path(out) / RESULT_NAME, document)
    return Path(out) / RESULT_NAME
