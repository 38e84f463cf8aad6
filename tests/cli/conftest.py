# SPDX-License-Identifier: Apache-2.0
"""A config of the tiny stage, and the program as a function."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from ldae.cli.main import main

HERE = Path(__file__).resolve().parent
CONFIG = """\
seed_everything: 3
run_dir: {run_dir}
trainer:
  max_epochs: 3
  accelerator: cpu
model:
  class_path: tiny_stage.TinyStage
  init_args:
    part:
      width: 4
data:
  class_path: tiny_stage.TinyData
"""


@dataclass(frozen=True)
class Said:
    """What a command answered."""

    code: int
    out: str
    err: str


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config file that trains the tiny stage into the folder `run` beside it."""
    monkeypatch.syspath_prepend(HERE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), os.environ["PYTHONPATH"]]))
    config = tmp_path / "tiny.yaml"
    config.write_text(CONFIG.format(run_dir=tmp_path / "run"))
    return config


@pytest.fixture
def ldae(capfd: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """The program in this process."""

    def run(*words: object) -> Said:
        capfd.readouterr()
        code = main([str(word) for word in words])
        captured = capfd.readouterr()
        return Said(code, captured.out, captured.err)

    return run
