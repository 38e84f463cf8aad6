# SPDX-License-Identifier: Apache-2.0
"""The program in processes forked from one that has imported everything: kills fall into the work itself."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

IMPORTED = (
    "lightning.pytorch",
    "ldae.cli.training",
    "ldae.evaluation.code",
    "ldae.evaluation.comparison",
    "ldae.evaluation.counterfactual",
    "ldae.evaluation.doctor",
    "ldae.evaluation.interpolation",
    "ldae.evaluation.probes",
    "ldae.evaluation.reconstruction",
    "ldae.evaluation.solvers",
    "ldae.pipeline.compress",
    "ldae.pipeline.embed_cohort",
    "ldae.pipeline.manipulation_job",
    "ldae.pipeline.samples",
    "ldae.pipeline.scan_jobs",
    "ldae.report.page",
    "ldae.report.doctor",
    "ldae.stages",
    "monai.networks.nets.autoencoderkl",
    "nilearn.datasets",
)


def server() -> ForkServerContext:
    """A context whose processes begin with the program's libraries."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*IMPORTED, "forked"])
    return context


def say(words: list[str], log: str) -> None:
    """The program, with what it prints in a file; a word && ends a command, and a failure all of them."""
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number in (1, 2):
        os.dup2(stream, number)
    from ldae.cli.main import main

    while "&&" in words:
        end = words.index("&&")
        if code := main(words[:end]):
            sys.exit(code)
        words = words[end + 1 :]
    sys.exit(main(words))


def start(context: ForkServerContext, words: list[str], *, log: Path) -> BaseProcess:
    """Begin a command, or several with a word && between them."""
    process = context.Process(target=say, args=(words, str(log)))
    process.start()
    return process


def run_whole(context: ForkServerContext, words: list[str], *, log: Path) -> float:
    """A command to its end; seconds that it took."""
    began = time.monotonic()
    process = start(context, words, log=log)
    process.join()
    assert process.exitcode == 0, log.read_text()
    return time.monotonic() - began
