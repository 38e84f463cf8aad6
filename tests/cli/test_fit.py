# SPDX-License-Identifier: Apache-2.0
"""What `fit` does around a stage: begin, go on, refuse, do nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

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
    checkpoint = EpochCheckpoint(path, started=0.0, earlier=0.0, saved=lambda seconds: None)
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
