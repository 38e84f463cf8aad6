# SPDX-License-Identifier: Apache-2.0
"""The job scripts with stand-ins for Slurm's commands and for `ldae`, which are not on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts" / "slurm"


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    """An environment in which `srun`, `scontrol` and `ldae` write down how they were called."""
    for name, after in {"srun": "exec sleep 2", "scontrol": "", "ldae": ""}.items():
        command = tmp_path / name
        command.write_text(f'#!/bin/sh\necho {name} "$@" >> {tmp_path}/calls\n{after}\n')
        command.chmod(0o755)
    slurm = {"SLURM_JOB_ID": "17", "SLURM_NTASKS_PER_NODE": "4", "SLURM_JOB_NUM_NODES": "2"}
    array = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "8"}
    return {**os.environ, **slurm, **array, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}


def test_fit_starts_a_process_a_device_and_queues_itself_again(
    cluster: dict[str, str], tmp_path: Path
) -> None:
    command = ["bash", SCRIPTS / "fit.sbatch", "aekl.yaml", "--run_dir", "outputs/mine"]
    with subprocess.Popen(command, env=cluster, stdout=subprocess.DEVNULL) as job:
        calls = tmp_path / "calls"
        deadline = time.monotonic() + 10
        while not calls.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        job.send_signal(signal.SIGUSR1)
        job.wait(timeout=20)
    assert calls.read_text().splitlines() == [
        "srun --kill-on-bad-exit=1 ldae fit --config aekl.yaml --config ddp.yaml"
        " --trainer.devices 4 --trainer.num_nodes 2 --run_dir outputs/mine",
        "scontrol requeue 17",
    ]


def test_each_job_of_an_array_makes_its_part(cluster: dict[str, str], tmp_path: Path) -> None:
    command = ["bash", SCRIPTS / "array.sbatch", "latents", "--run-dir", "outputs/run"]
    subprocess.run(command, env=cluster, check=True)
    assert (tmp_path / "calls").read_text() == "ldae latents --run-dir outputs/run --shard 3/8\n"
