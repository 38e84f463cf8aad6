# SPDX-License-Identifier: Apache-2.0
"""Run folders of their own on the tiny run's data, and the program in this process and in others."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from ldae.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
EARLIER = {
    "aekl": ("cohort", "cache"),
    "ldae_pretrain": ("cohort", "cache", "autoencoder", "latents"),
    "ldae_repr_learn": ("cohort", "cache", "autoencoder", "latents", "denoiser"),
}


@dataclass(frozen=True)
class Said:
    """What a command answered."""

    code: int
    out: str
    err: str


@pytest.fixture
def ldae(capfd: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """The program in this process."""

    def run(*words: object) -> Said:
        capfd.readouterr()
        code = main([str(word) for word in words])
        captured = capfd.readouterr()
        return Said(code, captured.out, captured.err)

    return run


@pytest.fixture
def start() -> Callable[..., subprocess.Popen[str]]:
    """The program in a process of its own, in a process group of its own."""

    def run(*words: object, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "run_cli.py", *map(str, words)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    return run


@pytest.fixture
def branch(tiny_run: Path, tmp_path: Path) -> Callable[..., Path]:
    """A run folder with links to parts of the tiny run."""

    def make(name: str, *parts: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for part in parts:
            (folder / part).symlink_to(tiny_run / part)
        return folder

    return make


@pytest.fixture
def stage(branch: Callable[..., Path]) -> Callable[..., tuple[Path, list[str]]]:
    """A run folder that a stage can be trained in, and the words that train it."""

    def make(config: str, *settings: str, name: str = "run") -> tuple[Path, list[str]]:
        run = branch(name, *EARLIER[config])
        overlay = ROOT / "tests" / "tiny" / f"{config}.yaml"
        return run, [
            "fit",
            f"--config=demo/{config}.yaml",
            f"--config={overlay}",
            f"--run_dir={run}",
            *settings,
        ]

    return make
