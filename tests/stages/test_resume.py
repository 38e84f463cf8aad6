# SPDX-License-Identifier: Apache-2.0
"""A stage killed in the middle goes on from its checkpoint and ends as if nothing had happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ldae.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 240.0


@dataclass(frozen=True)
class Case:
    """A stage, what it needs of the run before it, and settings that let a kill fall into the middle."""

    config: str
    kind: str
    needs: tuple[str, ...]
    settings: tuple[str, ...]


AUTOENCODER = Case(
    "aekl",
    "autoencoder",
    ("cache",),
    (
        "--model.init_args.loss.adversarial=0.1",
        "--model.init_args.loss.adversarial_start=0",
        "--model.init_args.loss.discriminator_channels=8",
        "--model.init_args.loss.discriminator_layers=2",
    ),
)
REPRESENTATION = Case(
    "ldae_repr_learn",
    "representation",
    ("autoencoder", "denoiser", "latents", "cache"),
    ("--data.init_args.batch_size=2",),
)


def words(case: Case, *, run: Path, cohort: Path) -> list[str]:
    configs = [f"--config=demo/{case.config}.yaml", f"--config={ROOT / 'tests' / 'tiny' / case.config}.yaml"]
    common = ["--trainer.max_epochs=3", f"--data.init_args.cohort={cohort}", "--run_dir", str(run)]
    return ["fit", *configs, *common, *case.settings]


def start_and_kill(command: list[str], *, record: Path) -> int:
    """Run the program until its first epoch is on record, and kill it in the next one."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    with subprocess.Popen([sys.executable, "run_cli.py", *command], cwd=ROOT, env=environment) as process:
        deadline = time.monotonic() + PATIENCE
        while not record.is_file() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        return process.wait()


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [pytest.param(AUTOENCODER, id="autoencoder"), pytest.param(REPRESENTATION, id="representation")],
)
def test_killed_and_started_again_ends_with_the_same_weights(
    case: Case, tiny_run: Path, branch: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    cohort = tiny_run / "cohort" / "cohort.csv"
    runs = {name: branch(name, *case.needs) for name in ("whole", "killed")}
    checkpoints = {name: run / "checkpoints" / case.kind for name, run in runs.items()}
    command = words(case, run=runs["killed"], cohort=cohort)
    assert start_and_kill(command, record=checkpoints["killed"] / "stage.json") == -signal.SIGKILL
    assert not (runs["killed"] / case.kind).exists()
    epoch = torch.load(checkpoints["killed"] / "last.ckpt", weights_only=True)["epoch"]
    assert epoch < 2
    capfd.readouterr()

    assert main(command) == 0
    assert "Going on from" in capfd.readouterr().out
    assert main(words(case, run=runs["whole"], cohort=cohort)) == 0

    exported = [load_file(run / case.kind / "model.safetensors") for run in runs.values()]
    assert exported[0].keys() == exported[1].keys()
    assert [name for name, value in exported[0].items() if not torch.equal(value, exported[1][name])] == []
    ends = [torch.load(folder / "last.ckpt", weights_only=True) for folder in checkpoints.values()]
    weights = [end["state_dict"] for end in ends]
    assert [name for name, value in weights[0].items() if not torch.equal(value, weights[1][name])] == []
    assert ends[0]["global_step"] == ends[1]["global_step"]
