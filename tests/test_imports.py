# SPDX-License-Identifier: Apache-2.0
"""Rooms import one way, and what must be light is light."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from ldae.cli.main import VERBS

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "monai", "lightning", "pandas", "sklearn", "matplotlib", "nibabel", "scipy", "jsonargparse")
REPORT = f"import sys; print('HEAVY', *[name for name in {HEAVY!r} if name in sys.modules])"


def loaded_by(code: str) -> list[str]:
    """Heavy packages that are loaded after `code` in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{REPORT}"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return done.stdout.splitlines()[-1].split()[1:]


def test_rooms_import_one_way() -> None:
    tool = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([tool, "--no-cache"], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout


def test_the_package_is_light() -> None:
    assert loaded_by("import ldae, ldae.errors, ldae.data, ldae.nets, ldae.pipeline, ldae.stages") == []


def test_help_of_program_and_verbs_is_light() -> None:
    words = [["--help"], ["--version"], *([verb, "--help"] for verb in VERBS)]
    assert loaded_by(f"from ldae.cli.main import main\nfor words in {words!r}: assert main(words) == 0") == []


@pytest.mark.parametrize("words", [["--help"], ["fit", "--help"], ["manipulate", "--help"]])
def test_help_answers_at_once(words: list[str]) -> None:
    command = [sys.executable, "run_cli.py", *words]
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        subprocess.run(command, capture_output=True, check=True, cwd=ROOT)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 1.5


def test_version_is_told_once() -> None:
    import ldae

    done = subprocess.run(
        [sys.executable, "run_cli.py", "--version"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.stdout == f"ldae {ldae.__version__}\n"
