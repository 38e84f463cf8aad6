# SPDX-License-Identifier: Apache-2.0
"""Two processes that train together end where one with the same batch ends; what they measure is of both."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ldae.data.samplers import EpochSampler, TurnSampler

ROOT = Path(__file__).resolve().parents[2]
TOGETHER = (f"--config={ROOT / 'configs' / 'ddp.yaml'}", "--trainer.devices=2", "--trainer.accelerator=cpu")
# relative to the largest weight of a tensor: sums over scans are taken in another order
TOLERANCE = 1e-3
# What the loss does not depend on has rounding for its gradient, and Adam makes steps of it: a shift before
# the code is whitened, and the mean that takes it away again; a shift of all scores before their softmax.
FREE = {
    "encoder.pooling.project.bias",
    "encoder.pooling.score.bias",
    "encoder.norm.running_mean",
}


@dataclass(frozen=True)
class Case:
    """A stage, what it needs of the run before it, and settings."""

    config: str
    kind: str
    needs: tuple[str, ...]
    settings: tuple[str, ...]
    tiny: str = ""


CASES = (
    Case(
        "aekl",
        "autoencoder",
        ("cache",),
        (
            "--data.init_args.batch_size=4",
            "--model.init_args.accumulate=2",
            "--model.init_args.loss.adversarial=0.1",
            "--model.init_args.loss.adversarial_start=1",
            "--model.init_args.loss.discriminator_channels=8",
            "--model.init_args.loss.discriminator_layers=2",
        ),
    ),
    Case(
        "ldae_pretrain",
        "denoiser",
        ("autoencoder", "latents", "cache"),
        ("--data.init_args.batch_size=4", "--model.init_args.latent=sample"),
    ),
    Case(
        "ldae_repr_learn",
        "representation",
        ("autoencoder", "denoiser", "latents", "cache"),
        ("--data.init_args.batch_size=4",),
    ),
    Case(
        "code_sampler",
        "code_sampler",
        ("autoencoder", "denoiser", "representation", "embeddings.parquet"),
        ("--data.init_args.batch_size=4", "--model.init_args.draws=3"),
    ),
    Case(
        "classification",
        "baselines/diagnosis-cnn",
        ("autoencoder", "cache"),
        (
            "--model.init_args.class_weights=balanced",
            "--data.init_args.augmentation={rotation: 10.0, noise: 0.02}",
            "--model.init_args.network.arguments={channels: [8, 16], dropout: 0.3}",
        ),
        tiny="supervised",
    ),
    Case(
        "regression",
        "baselines/age-cnn",
        ("autoencoder", "cache"),
        (
            "--model.init_args.optimiser.lr=3e-4",
            "--model.init_args.network.path=ldae.nets.image_networks.DenseNet3D",
            "--model.init_args.network.arguments={blocks: [1, 1], growth: 4, features: 8, dropout: 0.3}",
        ),
        tiny="supervised",
    ),
)


def words(case: Case, *, run: Path, cohort: Path) -> list[str]:
    configs = [
        f"--config={ROOT / 'configs' / 'demo' / case.config}.yaml",
        f"--config={ROOT / 'tests' / 'tiny' / (case.tiny or case.config)}.yaml",
    ]
    place = ["--run_dir", str(run), "--trainer.log_every_n_steps=1"]
    if case.kind != "code_sampler":
        place.append(f"--data.init_args.cohort={cohort}")
    return ["fit", *configs, *place, *case.settings]


def run_jobs(jobs: list[dict[str, Any]]) -> list[list[int]]:
    """Exit codes of each job's processes."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "stages" / "processes.py")],
        input=json.dumps(jobs),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=400,
        check=True,
    )
    codes: list[list[int]] = json.loads(done.stdout)
    return codes


def logged(run: Path, kind: str) -> dict[str, list[float]]:
    """What the trainer wrote down, a list a value."""
    values: dict[str, list[float]] = {}
    for path in sorted((run / "logs" / kind).glob("*/metrics.csv")):
        with path.open(newline="") as stream:
            for row in csv.DictReader(stream):
                for name, value in row.items():
                    if value and "/" in name:
                        values.setdefault(name, []).append(float(value))
    return values


def furthest(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> tuple[float, str]:
    """Largest difference relative to the largest number of its tensor, and whose."""
    assert found.keys() == wanted.keys()
    distances = [
        (float((found[name].double() - value.double()).abs().max() / value.abs().max().clamp(min=1e-3)), name)
        for name, value in wanted.items()
        if name not in FREE
    ]
    return max(distances)


@pytest.mark.slow
def test_two_processes_end_with_the_weights_of_one(
    tiny_run: Path, branch: Callable[..., Path], tmp_path: Path
) -> None:
    cohort = tiny_run / "cohort" / "cohort.csv"
    runs = {
        (case.kind, ranks): branch(f"{case.config}-{ranks}", *case.needs)
        for case in CASES
        for ranks in (1, 2)
    }
    for ranks in (1, 2):
        # into which the code sampler is added
        shutil.copytree(tiny_run / "pipeline", runs["code_sampler", ranks] / "pipeline")
    jobs = [
        {
            "words": [
                *words(case, run=runs[case.kind, ranks], cohort=cohort),
                *(TOGETHER if ranks == 2 else ()),
            ],
            "ranks": ranks,
            "log": str(tmp_path / f"{case.config}-{ranks}.log"),
        }
        for case in CASES
        for ranks in (1, 2)
    ]
    codes = run_jobs(jobs)
    logs = {path.name: path.read_text()[-2000:] for path in tmp_path.glob("*.log.*")}
    assert codes == [[0], [0, 0]] * len(CASES), logs
    for case in CASES:
        one, two = (runs[case.kind, ranks] for ranks in (1, 2))
        exported = [load_file(run / case.kind / "model.safetensors") for run in (two, one)]
        assert furthest(*exported)[0] < TOLERANCE, (case.kind, furthest(*exported))
        together, alone = logged(two, case.kind), logged(one, case.kind)
        assert together.keys() == alone.keys()
        # whose code "another's" is depends on who shares the process
        for name in together.keys() - {"val/shuffled"}:
            assert together[name] == pytest.approx(alone[name], rel=5e-3), (case.kind, name)
        assert logs[f"{case.config}-2.log.1"].count("Wrote") == 0
        assert logs[f"{case.config}-2.log.0"].count("Wrote") == 1


@pytest.mark.parametrize("size", [16, 17, 23])
@pytest.mark.parametrize("ranks", [2, 3])
def test_the_batches_of_all_processes_are_those_of_one(size: int, ranks: int) -> None:
    share = 2
    together, alone = [], EpochSampler(size, seed=3)
    for rank in range(ranks):
        sampler = EpochSampler(size, seed=3, rank=rank, ranks=ranks)
        sampler.set_epoch(5)
        together.append(list(sampler))
    alone.set_epoch(5)
    order, batch = list(alone), ranks * share
    for start in range(0, size - batch + 1, batch):
        first = start // ranks
        shares = [scans[first : first + share] for scans in together]
        assert {scan for part in shares for scan in part} == set(order[start : start + batch])
    assert len({len(part) for part in together}) == 1
    assert sorted(order) == list(range(size))


def test_every_scan_is_measured_once() -> None:
    turns = [list(TurnSampler(7, rank=rank, ranks=3)) for rank in range(3)]
    assert turns == [[0, 3, 6], [1, 4], [2, 5]]
    assert [len(TurnSampler(7, rank=rank, ranks=3)) for rank in range(3)] == [3, 2, 2]
