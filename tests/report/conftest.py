# SPDX-License-Identifier: Apache-2.0
"""A run with everything that the report shows, made by a tiny pipeline with random weights."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from judged_run import make_judged_run

from ldae.data.artefact import write_json
from ldae.evaluation.code import evaluate_code
from ldae.evaluation.comparison import evaluate_comparison
from ldae.evaluation.counterfactual import evaluate_counterfactual
from ldae.evaluation.interpolation import evaluate_interpolation
from ldae.evaluation.probes import fit_probe
from ldae.evaluation.reconstruction import evaluate_reconstruction
from ldae.pipeline import LDAEPipeline
from ldae.pipeline.manipulation_job import manipulate_scans
from ldae.pipeline.scan_jobs import (
    Sampling,
    gather_scans,
    interpolate_scans,
    reconstruct_scans,
)
from ldae.pipeline.variation import vary_scans

FEW = Sampling(steps=2)


def measure(run_dir: Path) -> None:
    """All evaluations, with as little work as they allow."""
    head = fit_probe(run_dir / "embeddings.parquet", target="diagnosis", out=run_dir / "heads" / "diagnosis")
    fit_probe(run_dir / "embeddings.parquet", target="age", out=run_dir / "heads" / "age")
    given = run_dir / "pipeline", run_dir / "cohort" / "cohort.csv"
    out = run_dir / "evaluation"
    evaluate_reconstruction(*given, out=out / "reconstruction", steps=2, limit=3, device="cpu")
    evaluate_code(*given, out=out / "code", steps=3, limit=4, device="cpu")
    evaluate_interpolation(*given, out=out / "interpolation", steps=2, limit=3, device="cpu")
    evaluate_counterfactual(
        *given,
        head=head,
        out=out / "counterfactual",
        targets=(0.2, 0.8),
        steps=2,
        decode_steps=2,
        limit=3,
        device="cpu",
    )
    evaluate_comparison(*given, out=out / "comparison", device="cpu")


def render(run_dir: Path) -> None:
    """What the scan verbs write."""
    pipe = LDAEPipeline.from_pretrained(run_dir / "pipeline", device="cpu")
    frame = pd.read_csv(run_dir / "cohort" / "cohort.csv")
    thrice = frame.groupby("subject").filter(lambda rows: len(rows) == 3).iloc[:3]
    visits = gather_scans([run_dir / "cohort" / path for path in thrice["path"]])
    scans = run_dir / "scans"
    reconstruct_scans(pipe, visits[:1], out=scans / "reconstruct", sampling=FEW)
    vary_scans(pipe, visits[:1], out=scans / "vary", n=2, sampling=FEW)
    interpolate_scans(
        pipe, visits[0], second=visits[2], out=scans / "interpolate", fractions=[0.5], sampling=FEW
    )
    manipulate_scans(
        pipe,
        visits[:1],
        out=scans / "manipulate",
        head=run_dir / "heads" / "diagnosis",
        targets=[0.2, 0.8],
        target_class="AD",
        hold=[run_dir / "heads" / "age"],
        sampling=FEW,
    )


def write_logs(run_dir: Path) -> None:
    """A training log of one stage, interrupted once, and times."""
    for version, steps in enumerate((range(0, 40, 10), range(40, 80, 10))):
        log = pd.DataFrame(
            {"epoch": 0, "step": list(steps), "train/loss": [1 / (1 + step) for step in steps]}
        )
        folder = run_dir / "logs" / "denoiser" / f"version_{version}"
        folder.mkdir(parents=True)
        log.to_csv(folder / "metrics.csv", index=False)
    parts = ("phantom", "autoencoder", "denoiser", "representation", "total")
    write_json(run_dir / "timings.json", {f"seconds_{name}": 12.0 for name in parts})


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder as the demo leaves it."""
    run_dir = make_judged_run(tmp_path_factory.mktemp("reported") / "tiny")
    measure(run_dir)
    render(run_dir)
    write_logs(run_dir)
    return run_dir
