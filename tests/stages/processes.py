# SPDX-License-Identifier: Apache-2.0
"""Trainings of several processes as a cluster starts them, forked from one that has imported everything.

Reads a list of jobs {"words", "ranks", "log"} as JSON from standard input, runs them one after another, and
writes the exit codes of their processes as JSON.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from ldae.cli.main import main

NEEDED = (
    "monai.networks.nets.autoencoderkl",
    "monai.networks.nets.patchgan_discriminator",
    "ldae.cli.training",
    "ldae.data.datamodule",
    "ldae.pipeline.assemble",
    "ldae.stages.autoencoder",
    "ldae.stages.denoiser",
    "ldae.stages.representation",
)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def start(job: dict[str, Any], *, rank: int, port: int) -> int:
    """Fork one process of a job; its number."""
    number = os.fork()
    if number:
        return number
    output = os.open(f"{job['log']}.{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    if job["ranks"] > 1:
        place = {"LOCAL_RANK": rank, "NODE_RANK": 0, "WORLD_SIZE": job["ranks"], "MASTER_PORT": port}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in place.items()}}
        rank_zero_only.rank = rank
    code = 70
    try:
        code = main(job["words"])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run(job: dict[str, Any]) -> list[int]:
    """Exit codes by rank; when one fails, the others are killed, as `srun --kill-on-bad-exit` does."""
    Path(job["log"]).parent.mkdir(parents=True, exist_ok=True)
    port = free_port()
    numbers = [start(job, rank=rank, port=port) for rank in range(job["ranks"])]
    codes: dict[int, int] = {}
    while len(codes) < len(numbers):
        for number in set(numbers) - codes.keys():
            done, status = os.waitpid(number, os.WNOHANG)
            if done:
                codes[number] = os.waitstatus_to_exitcode(status)
                for other in set(numbers) - codes.keys() if codes[number] else ():
                    os.kill(other, 9)
        time.sleep(0.02)
    return [codes[number] for number in numbers]


if __name__ == "__main__":
    for name in NEEDED:
        import_module(name)
    json.dump([run(job) for job in json.load(sys.stdin)], sys.stdout)
