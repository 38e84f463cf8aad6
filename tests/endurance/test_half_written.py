# SPDX-License-Identifier: Apache-2.0
"""What killed processes left half written is cleared by whoever writes there next, and only that."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ldae.data.artefact import ABANDONED, atomic_folder, atomic_path, clear_partials, partial_prefix
from ldae.data.ingest.deidentify import read_key, write_key
from ldae.errors import StorageError

HERE = partial_prefix().partition("@")[2].rstrip("~")


@pytest.fixture(scope="module")
def dead() -> int:
    """Number of a process that has ended."""
    with subprocess.Popen(["true"]) as process:
        process.wait()
        return process.pid


@pytest.fixture
def leave(dead: int) -> Callable[..., Path]:
    """A half-written file of a process: a dead one of this machine by default."""

    def write(folder: Path, *, process: int = dead, host: str = HERE) -> Path:
        path = folder / f".partial-{process}@{host}~x1_y.npy"
        path.write_bytes(b"half")
        return path

    return write


def test_files_in_work_carry_their_process(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "file.json") as one, atomic_folder(tmp_path / "folder", last="a") as two:
        for path in (one, two):
            assert path.name.startswith(f".partial-{os.getpid()}@{HERE}~")
            os.utime(path, (0, 0))
            clear_partials(path.parent)
            assert path.exists()
        one.write_text("")


def test_only_what_dead_processes_left_is_cleared(
    tmp_path: Path, leave: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / "deep"
    deep.mkdir()
    gone = leave(tmp_path)
    elsewhere = leave(tmp_path, host="elsewhere")
    kept = [leave(tmp_path, process=1), leave(deep), tmp_path / ".partial-another.ckpt"]
    kept[-1].touch()
    clear_partials(tmp_path)
    assert [path.exists() for path in (gone, elsewhere, *kept)] == [False, True, True, True, True]
    clear_partials(tmp_path, deep=True)
    assert [path.exists() for path in kept] == [True, False, True]
    clear_partials(tmp_path / "nothing")
    now = time.time()
    for later, there in ((ABANDONED - 60, True), (ABANDONED + 60, False)):
        monkeypatch.setattr(time, "time", lambda later=later: now + later)
        clear_partials(tmp_path)
        assert elsewhere.exists() == there
    assert kept[0].exists()  # it is alive, however long it takes


def test_numbers_of_another_container_s_processes_mean_nothing(tmp_path: Path) -> None:
    isolated = ["unshare", "--user", "--map-root-user", "--pid", "--fork"]
    if subprocess.run([*isolated, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no namespace of its own can be made here")
    clears = "import sys; from ldae.data.artefact import clear_partials; clear_partials(sys.argv[1])"
    with atomic_path(tmp_path / "file.json") as half:
        subprocess.run([*isolated, sys.executable, "-c", clears, str(tmp_path)], check=True)
        assert half.exists()
        half.write_text("")


def test_a_fault_names_the_file_that_was_wanted(tmp_path: Path) -> None:
    told = r"scan\.nii\.gz cannot be written: the disk is full"
    with (
        pytest.raises(StorageError, match=told) as error,
        atomic_path(tmp_path / "scan.nii.gz") as outer,
        atomic_path(outer),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert ".partial" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_folders_are_cleared_too(tmp_path: Path, dead: int) -> None:
    half = tmp_path / f".partial-{dead}@{HERE}~abc"
    (half / "within").mkdir(parents=True)
    (half / "within" / "file").touch()
    clear_partials(tmp_path)
    assert not half.exists()


def test_split_clears_what_a_killed_one_left(
    tmp_path: Path, tiny_run: Path, ldae, leave: Callable[..., Path], dead: int
) -> None:
    shutil.copytree(tiny_run / "cohort", tmp_path / "cohort")
    half = leave(tmp_path / "cohort")
    (tmp_path / "cohort" / ".lock").write_text(json.dumps([dead, "here"]))
    assert ldae("split", "--cohort", tmp_path / "cohort" / "cohort.csv", "--overwrite").code == 0
    assert not half.exists()
    assert not (tmp_path / "cohort" / ".lock").exists()


@pytest.mark.parametrize("part", [(), ("--shard", "1/2")])
def test_latents_and_embed_clear_what_killed_ones_left(
    tmp_path: Path, tiny_run: Path, ldae, leave: Callable[..., Path], part: tuple[str, ...]
) -> None:
    for name in ("cohort", "autoencoder"):
        (tmp_path / name).symlink_to(tiny_run / name)
    halves = []
    for name in ("cache", "latents", "out"):
        (tmp_path / name).mkdir()
        halves.append(leave(tmp_path / name))
    (tmp_path / "out" / ".lock").write_text("[0]")
    assert ldae("latents", "--run-dir", tmp_path, *part).code == 0
    words = ("--cohort", tmp_path / "cohort" / "cohort.csv", "--out", tmp_path / "out", *part)
    assert ldae("embed", "--pipeline", tiny_run / "pipeline", *words).code == 0
    assert [half.exists() for half in halves] == [False] * 3


def test_the_key_clears_what_would_tell_who_is_who(tmp_path: Path, leave: Callable[..., Path]) -> None:
    half = leave(tmp_path)
    write_key(tmp_path / "key.json", {"secret": "5e"})
    assert not half.exists()
    assert read_key(tmp_path / "key.json") == {"secret": "5e"}
    assert [path.name for path in tmp_path.iterdir()] == ["key.json"]
