# SPDX-License-Identifier: Apache-2.0
"""What `fit` does around a stage: begin, go on, refuse, do nothing."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from ldae.cli.checkpoint import EpochCheckpoint

Program = Callable[..., object]
ROOT = Path(__file__).resolve().parents[2]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "tiny" / "model.safetensors")


def record(run: Path) -> dict[str, object]:
    document: dict[str, object] = json.loads((run / "checkpoints" / "tiny" / "stage.json").read_text())
    return document


def in_own_process(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "run_cli.py", *map(str, words)]
    environment = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)


def test_trains_exports_and_records(tiny: Path, ldae) -> None:
    run = tiny.parent / "run"
    said = ldae("fit", "--config", tiny)
    assert said.code == 0, said.err
    assert f"Wrote {run / 'tiny'}" in said.out
    assert set(weights(run)) == {"weight", "bias"}
    assert (run / "checkpoints" / "tiny" / "last.ckpt").is_file()
    resolved = yaml.safe_load((run / "checkpoints" / "tiny" / "config.yaml").read_text())
    assert resolved["trainer"]["max_epochs"] == 3
    assert resolved["model"]["init_args"]["lr"] == 0.1
    assert (run / "logs" / "tiny" / "version_0" / "metrics.csv").is_file()
    assert not list((run / "checkpoints" / "tiny").glob(".partial*"))


def test_the_same_words_are_answered_without_the_training_stack(tiny: Path, ldae) -> None:
    assert ldae("fit", "--config", tiny).code == 0
    before = weights(tiny.parent / "run")
    code = (
        "import sys; from ldae.cli.main import main\n"
        f"assert main(['fit', '--config', {str(tiny)!r}]) == 0\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "is up to date" in done.stdout
    # other words for the same thing
    said = ldae("fit", "--config", tiny, "--model.init_args.lr", "0.1", "--trainer.log_every_n_steps", 2)
    assert said.code == 0
    assert "is up to date" in said.out
    assert all(torch.equal(before[name], value) for name, value in weights(tiny.parent / "run").items())


def test_an_edited_configuration_is_refused(tiny: Path, ldae) -> None:
    assert ldae("fit", "--config", tiny).code == 0
    said = ldae("fit", "--config", tiny, "--model.init_args.lr", "0.2", "--trainer.max_epochs", "4")
    assert said.code == 2
    assert "model.init_args.lr 0.2 (was 0.1); trainer.max_epochs 4 (was 3)" in said.err
    assert "--overwrite true" in said.err
    assert "--run_dir" in said.err
    assert said.err.count("\n") == 1


@pytest.mark.parametrize("overwrite", ["true", "stale"])
def test_an_edited_configuration_trains_anew_when_told_to(tiny: Path, ldae, overwrite: str) -> None:
    assert ldae("fit", "--config", tiny).code == 0
    before = weights(tiny.parent / "run")
    said = ldae("fit", "--config", tiny, "--model.init_args.lr", "0.2", "--overwrite", overwrite)
    assert said.code == 0, said.err
    assert not torch.equal(before["weight"], weights(tiny.parent / "run")["weight"])


def test_stale_keeps_what_is_not_stale(tiny: Path, ldae) -> None:
    assert ldae("fit", "--config", tiny).code == 0
    assert "is up to date" in ldae("fit", "--config", tiny, "--overwrite", "stale").out


def test_a_changed_cohort_is_refused(tiny: Path, ldae) -> None:
    cohort = tiny.parent / "run" / "cohort" / "cohort.csv"
    cohort.parent.mkdir(parents=True)
    cohort.write_text("subject,session,path,diagnosis,age,split\n1,1,a.nii,CN,60,train\n")
    assert ldae("fit", "--config", tiny).code == 0
    cohort.write_text("subject,session,path,diagnosis,age,split,sex\n1,1,a.nii,CN,60,train,F\n")
    assert "is up to date" in ldae("fit", "--config", tiny).out
    cohort.write_text("subject,session,path,diagnosis,age,split\n1,1,a.nii,CN,60,test\n")
    said = ldae("fit", "--config", tiny)
    assert said.code == 2
    assert "but cohort changed since" in said.err


def test_a_component_from_elsewhere_is_not_replaced(tiny: Path, ldae) -> None:
    assert ldae("fit", "--config", tiny).code == 0
    shutil.rmtree(tiny.parent / "run" / "checkpoints")
    said = ldae("fit", "--config", tiny)
    assert said.code == 2
    assert "without its record" in said.err


def test_a_damaged_component_is_written_again(tiny: Path, ldae) -> None:
    assert ldae("fit", "--config", tiny).code == 0
    component = tiny.parent / "run" / "tiny" / "config.json"
    text = component.read_text()
    component.unlink()
    said = ldae("fit", "--config", tiny)
    assert said.code == 0
    assert "Going on from" in said.out
    assert component.read_text() == text


@pytest.mark.parametrize("damage", ["missing", "truncated", "empty", "pickle", "grown"])
def test_damaged_weights_are_written_again(tiny: Path, ldae, damage: str) -> None:
    assert ldae("fit", "--config", tiny).code == 0
    path = tiny.parent / "run" / "tiny" / "model.safetensors"
    whole = path.read_bytes()
    other = {
        "truncated": whole[:-1],
        "empty": b"",
        "pickle": pickle.dumps({"weight": 1}),
        "grown": whole + b"0",
    }
    path.unlink() if damage == "missing" else path.write_bytes(other[damage])
    said = ldae("fit", "--config", tiny)
    assert said.code == 0, said.err
    assert "Going on from" in said.out
    assert path.read_bytes() == whole
    assert "is up to date" in ldae("fit", "--config", tiny).out


def test_a_checkpoint_without_its_record_is_not_replaced(tiny: Path, ldae) -> None:
    folder = tiny.parent / "run" / "checkpoints" / "tiny"
    assert in_own_process("fit", "--config", tiny, TINY_STAGE_DIES_IN="1").returncode == -9
    (folder / "stage.json").unlink()
    before = (folder / "last.ckpt").read_bytes()
    said = ldae("fit", "--config", tiny)
    assert said.code == 2
    assert (
        f"{folder / 'last.ckpt'} must lie beside its record, but {folder / 'stage.json'} is missing"
        in said.err
    )
    assert (folder / "last.ckpt").read_bytes() == before
    assert ldae("fit", "--config", tiny, "--overwrite", "true").code == 0


def test_a_training_without_its_checkpoint_says_that_it_begins_anew(tiny: Path, ldae) -> None:
    run = tiny.parent / "run"
    assert in_own_process("fit", "--config", tiny, TINY_STAGE_DIES_IN="1").returncode == -9
    (run / "checkpoints" / "tiny" / "last.ckpt").unlink()
    said = ldae("fit", "--config", tiny)
    assert said.code == 0, said.err
    assert f"{run / 'checkpoints/tiny/last.ckpt'} is missing: training begins anew." in said.out


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "logs" not in path.relative_to(folder).parts
    }


@pytest.mark.parametrize("overwrite", ["true", "stale"])
def test_a_training_anew_that_fails_at_once_leaves_the_old_one(
    tiny: Path, ldae, overwrite: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny.parent / "run"
    assert ldae("fit", "--config", tiny).code == 0
    before = contents(run)
    monkeypatch.setenv("TINY_STAGE_FAILS_IN", "0")
    with pytest.raises(RuntimeError, match="failed on purpose"):
        ldae("fit", "--config", tiny, "--overwrite", overwrite, "--model.init_args.lr", "0.2")
    assert contents(run) == before
    assert "is up to date" in ldae("fit", "--config", tiny).out


@pytest.mark.parametrize("place", ["config.yaml", "stage.json", "last.ckpt"])
def test_a_training_anew_on_a_full_disk_leaves_the_old_one(tiny: Path, ldae, place: str) -> None:
    run = tiny.parent / "run"
    assert ldae("fit", "--config", tiny).code == 0
    before = contents(run)
    write = Path.write_text

    def full(path: Path, *words: Any, **options: Any) -> int:
        if path.name.startswith(".partial-") and path.name.endswith(Path(place).suffix):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, *words, **options)

    def full_checkpoint(document: Any, path: Path) -> None:
        path.write_text("half")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        if place == "last.ckpt":
            patch.setattr(torch, "save", full_checkpoint)
        said = ldae("fit", "--config", tiny, "--overwrite", "true", "--model.init_args.lr", "0.2")
    assert said.code == 2
    assert f"{place} cannot be written: the disk is full" in said.err
    assert contents(run) == before


def test_a_training_anew_that_fails_later_goes_on(tiny: Path, ldae, monkeypatch: pytest.MonkeyPatch) -> None:
    run, words = tiny.parent / "run", ("--model.init_args.lr", "0.2")
    assert ldae("fit", "--config", tiny).code == 0
    old = weights(run)
    monkeypatch.setenv("TINY_STAGE_FAILS_IN", "1")
    with pytest.raises(RuntimeError, match="failed on purpose"):
        ldae("fit", "--config", tiny, "--overwrite", "true", *words)
    monkeypatch.delenv("TINY_STAGE_FAILS_IN")
    assert record(run)["outputs"] == {}
    assert all(torch.equal(weights(run)[name], value) for name, value in old.items())
    resolved = yaml.safe_load((run / "checkpoints" / "tiny" / "config.yaml").read_text())
    assert resolved["model"]["init_args"]["lr"] == 0.2
    said = ldae("fit", "--config", tiny, *words)
    assert said.code == 0, said.err
    assert "Going on from" in said.out


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"config": 1}'])
@pytest.mark.parametrize("overwrite", ["true", "stale"])
def test_a_damaged_record_is_told_and_can_be_trained_over(
    tiny: Path, ldae, text: str, overwrite: str
) -> None:
    assert ldae("fit", "--config", tiny).code == 0
    path = tiny.parent / "run" / "checkpoints" / "tiny" / "stage.json"
    path.write_text(text)
    said = ldae("fit", "--config", tiny)
    assert said.code == 2
    assert said.err == (
        f"ldae: {path} must be a whole record of fit. Train it anew with --overwrite true, or keep both with "
        "another --run_dir.\n"
    )
    said = ldae("fit", "--config", tiny, "--overwrite", overwrite)
    assert said.code == 0, said.err
    assert "Going on" not in said.out
    assert "is up to date" in ldae("fit", "--config", tiny).out


def test_a_damaged_record_of_another_stage_is_no_obstacle(tiny: Path, ldae) -> None:
    other = tiny.parent / "run" / "checkpoints" / "denoiser" / "stage.json"
    other.parent.mkdir(parents=True)
    other.write_text("{")
    assert ldae("fit", "--config", tiny).code == 0
    assert "is up to date" in ldae("fit", "--config", tiny).out


def test_checkpoints_are_written_without_the_temporary_folder(tiny: Path, ldae, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path / "full"))
        said = ldae("fit", "--config", tiny)
    assert said.code == 0, said.err
    assert torch.load(tiny.parent / "run/checkpoints/tiny/last.ckpt", weights_only=True)["epoch"] == 2


def test_a_checkpoint_half_written_by_a_killed_process_is_cleared(tiny: Path, ldae) -> None:
    kill = (
        "import os, signal, sys, torch\n"
        "from ldae.cli.main import main\n"
        "def half(document, path):\n"
        "    open(path, 'wb').write(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "torch.save = half\n"
        "main(sys.argv[1:])"
    )
    words = [sys.executable, "-c", kill, "fit", "--config", str(tiny)]
    assert subprocess.run(words, cwd=ROOT, check=False).returncode == -9
    folder = tiny.parent / "run" / "checkpoints" / "tiny"
    assert len(list(folder.glob(".partial-*~*"))) == 1
    assert ldae("fit", "--config", tiny).code == 0
    assert not list(folder.glob(".partial*"))


def test_a_killed_run_goes_on_and_ends_with_the_same_weights(tiny: Path, ldae) -> None:
    run = tiny.parent / "run"
    killed = in_own_process("fit", "--config", tiny, TINY_STAGE_DIES_IN="1")
    assert killed.returncode == -9, killed.stderr
    assert not (run / "tiny").exists()
    seconds = record(run)["seconds"]
    said = ldae("fit", "--config", tiny)
    assert said.code == 0, said.err
    assert "Going on from" in said.out
    assert record(run)["seconds"] > seconds
    whole = tiny.parent / "whole"
    assert ldae("fit", "--config", tiny, "--run_dir", whole).code == 0
    assert all(torch.equal(weights(run)[name], value) for name, value in weights(whole).items())


def test_a_failure_before_the_first_checkpoint_binds_nobody(tiny: Path, ldae, monkeypatch) -> None:
    monkeypatch.setenv("TINY_STAGE_FAILS_IN", "0")
    with pytest.raises(RuntimeError, match="failed on purpose"):
        ldae("fit", "--config", tiny)
    monkeypatch.delenv("TINY_STAGE_FAILS_IN")
    assert ldae("fit", "--config", tiny, "--model.init_args.lr", "0.3").code == 0


def test_a_checkpoint_torn_by_a_kill_leaves_the_last_one_whole(tmp_path: Path) -> None:
    class Torn:
        is_global_zero = True

        def save_checkpoint(self, path: Path) -> None:
            path.write_bytes(b"half")
            raise KeyboardInterrupt

    path = tmp_path / "last.ckpt"
    path.write_bytes(b"whole")
    checkpoint = EpochCheckpoint(path, started=0.0, earlier=0.0, saving=lambda seconds: None, kept=True)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.on_train_epoch_end(Torn(), None)
    assert path.read_bytes() == b"whole"


def test_fast_dev_run_leaves_nothing_behind(tiny: Path, ldae) -> None:
    said = ldae("fit", "--config", tiny, "--trainer.fast_dev_run", "true")
    assert said.code == 0, said.err
    assert not (tiny.parent / "run").exists()


def test_print_config_needs_no_earlier_stage_and_can_be_fed_back(tiny: Path, ldae) -> None:
    said = ldae("fit", "--config", tiny, "--trainer.max_epochs", "7", "--print_config")
    assert said.code == 0
    printed = yaml.safe_load(said.out)
    assert printed["trainer"]["max_epochs"] == 7
    assert printed["run_dir"] == str(tiny.parent / "run")
    again = tiny.with_name("again.yaml")
    again.write_text(said.out)
    assert yaml.safe_load(ldae("fit", "--config", again, "--print_config").out) == printed


def test_a_second_config_overlays_the_first(tiny: Path, ldae) -> None:
    overlay = tiny.with_name("overlay.yaml")
    overlay.write_text(
        "model:\n  init_args:\n    lr: 0.5\n    part:\n      width: 4\ntrainer:\n  max_epochs: 2\n"
    )
    words = ("fit", "--config", tiny, "--trainer.max_epochs", "1", "--config", overlay, "--print_config")
    printed = yaml.safe_load(ldae(*words).out)
    assert printed["model"]["init_args"]["lr"] == 0.5
    assert printed["trainer"]["max_epochs"] == 1, "a key on the command line wins over every config"
    assert printed["trainer"]["accelerator"] == "cpu"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--trainer.max_epochs", "many"], ["trainer.max_epochs", "int", "many"]),
        (["--trainer.max_epoch", "3"], ["--trainer.max_epoch"]),
        (["--model.init_args.breadth", "3"], ["breadth"]),
        (["--model.init_args.lr", "high"], ["lr", "float", "high"]),
        (["--model.class_path", "tiny_stage.Nothing"], ["tiny_stage.Nothing"]),
        (["--model.init_args.part.width", "13"], ["width must be another number than 13"]),
        (["--trainer.accelerator", "warp"], ["warp"]),
        (["--trainer.accumulate_grad_batches", "0"], ["accumulate_grad_batches must be 1 or more, got 0"]),
        (["--trainer.max_epochs", "0"], ["trainer.max_epochs must be 1 or more, got 0"]),
        (
            ["--trainer.precision", "bf16-true"],
            ["precision must be 32-true, bf16-mixed or 16-mixed", "got bf16-true"],
        ),
        (["--trainer.gradient_clip_val", "-0.5"], ["gradient_clip_val must be 0 or more, got -0.5"]),
        (["--trainer.check_val_every_n_epoch", "0"], ["check_val_every_n_epoch must be 1 or more, got 0"]),
        (["--seed_everything", "-4"], ["seed_everything must be a seed: -4 is not in bounds"]),
        (["--data.init_args.num_workers", "-1"], ["data.init_args.num_workers must be 0 or more, got -1"]),
    ],
)
def test_a_wrong_key_is_named_in_one_sentence(tiny: Path, ldae, words: list[str], told: list[str]) -> None:
    said = ldae("fit", "--config", tiny, *words)
    assert said.code == 2
    assert said.err.count("\n") == 1, said.err
    for word in told:
        assert word in said.err


def test_a_wrong_key_in_a_config_is_named(tiny: Path, ldae) -> None:
    tiny.write_text(tiny.read_text().replace("max_epochs", "max_epoch"))
    said = ldae("fit", "--config", tiny)
    assert said.code == 2
    assert "'max_epoch'" in said.err


def test_validate_uses_the_last_checkpoint(tiny: Path, ldae) -> None:
    said = ldae("validate", "--config", tiny)
    assert said.code == 2
    assert "Run first: ldae fit" in said.err
    assert ldae("fit", "--config", tiny).code == 0
    said = ldae("validate", "--config", tiny)
    assert said.code == 0, said.err
    assert "val/loss" in said.out
    said = ldae("test", "--config", tiny)
    assert said.code == 2
    assert "test_step" in said.err
