# SPDX-License-Identifier: Apache-2.0
"""One writer to a folder."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ldae.cli.main import main
from ldae.data.artefact import atomic_path
from ldae.data.lock import held
from ldae.errors import InputError, StorageError

HOLDS = """\
import sys, time
from ldae.data.artefact import atomic_path
from ldae.data.lock import held
with held(sys.argv[1], part=sys.argv[2]), atomic_path(sys.argv[1] + "/deep/file.json") as path:
    path.write_text("half")
    print("holds", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that writes into tmp_path/out."""
    command = [sys.executable, "-c", HOLDS, str(tmp_path / "out"), ""]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "holds\n"
        yield process
        process.kill()


def test_a_second_writer_is_refused_with_the_first_one_s_process(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    out = tmp_path / "out"
    with pytest.raises(InputError, match=rf"{out} .* process {holder.pid} on .* another folder"), held(out):
        pytest.fail("two writers")
    with held(out, part="denoiser"), held(tmp_path / "other"):
        pass
    assert (out / ".lock").is_file()


def test_a_part_within_a_part_has_a_lock_of_its_own(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with held(run, part="baselines/age-cnn"), held(run, part="baselines/age-encoder"), held(run):
        assert (run / "baselines" / ".age-cnn.lock").is_file()
    assert not run.exists()


def test_a_command_is_refused(
    tmp_path: Path, holder: subprocess.Popen[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["phantom", "--out", str(tmp_path / "out"), "--subjects", "6"]) == 2
    said = capsys.readouterr().err
    assert f"process {holder.pid}" in said
    assert said.count("\n") == 1


def test_the_lock_ends_with_its_process_and_its_half_files_are_cleared(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    out = tmp_path / "out"
    (half,) = (out / "deep").iterdir()
    assert half.name.startswith(f".partial-{holder.pid}@")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with held(out):
        assert not half.exists()
    assert not (out / ".lock").exists()


def test_what_this_process_holds_it_may_hold_again(tmp_path: Path) -> None:
    with held(tmp_path / "out"):
        with held(tmp_path / "out"):
            pass
        assert (tmp_path / "out" / ".lock").is_file()
    assert not (tmp_path / "out").exists()


def test_a_folder_that_something_was_written_into_stays(tmp_path: Path) -> None:
    with held(tmp_path / "new" / "out"), atomic_path(tmp_path / "new" / "out" / "file") as path:
        path.write_text("")
    assert [path.name for path in (tmp_path / "new" / "out").iterdir()] == ["file"]


def test_other_ranks_write_beside_the_first(tmp_path: Path, holder, monkeypatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    with held(tmp_path / "out"):
        pass
    assert (tmp_path / "out" / ".lock").is_file()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    told = r"file.*a file lies where a folder is needed"
    with pytest.raises(StorageError, match=told), held(tmp_path / "file" / "out"):
        pytest.fail("made")
    assert os.listdir(tmp_path) == ["file"]


def test_a_full_disk_is_told_by_the_lock_and_leaves_no_folder(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with pytest.raises(StorageError, match=r"\.lock"), held(tmp_path / "new" / "out"):
            pytest.fail("signed")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == []
    with held(tmp_path / "new" / "out"):
        assert (tmp_path / "new" / "out" / ".lock").is_file()


def test_a_lock_that_nobody_signed_is_taken(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("{")
    with held(tmp_path):
        assert str(os.getpid()) in (tmp_path / ".lock").read_text()


@pytest.mark.parametrize("verb", ["latents", "embed"])
def test_parts_of_a_cohort_are_written_beside_each_other(verb: str, tmp_path: Path) -> None:
    from importlib import import_module

    from ldae.cli.main import _parse

    module = import_module(f"ldae.cli.verbs.{verb}")
    needed = ["--pipeline", "p"] if verb == "embed" else []
    assert module.writes(_parse(module, verb=verb, words=needed)) is not None
    assert module.writes(_parse(module, verb=verb, words=[*needed, "--shard", "1/2"])) is None


def test_drawn_scans_have_their_folder_to_themselves() -> None:
    from ldae.cli.main import _parse
    from ldae.cli.verbs import sample

    words = ["--pipeline", "p", "--out", "o"]
    assert sample.writes(_parse(sample, verb="sample", words=words)) == Path("o")
