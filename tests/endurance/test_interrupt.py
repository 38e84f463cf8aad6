# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C and SIGTERM: once saves and ends, and what follows is what would have been."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from safetensors.torch import load_file

SETTINGS = ("--trainer.max_epochs=3", "--data.init_args.batch_size=2")


class PressCtrlC(Callback):
    """Sends this process a signal within a step, as the terminal or a scheduler does."""

    def __init__(self, *, epoch: int, batch: int, times: int = 1, number: int = signal.SIGINT) -> None:
        self.epoch, self.batch, self.times, self.number = epoch, batch, times, number

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        batch = trainer.fit_loop.epoch_loop.batch_progress.current.ready - 1
        if (trainer.current_epoch, batch) == (self.epoch, self.batch):
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)


@pytest.fixture(autouse=True)
def listening() -> Iterator[None]:
    """Tests started in the background of a script inherit that Ctrl-C is ignored, and hand it on."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def press(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let Ctrl-C be pressed at a place of the training."""
    from ldae.cli.stage import StageCLI

    build = StageCLI.build

    def at(**place: Any) -> None:
        def pressed(self: StageCLI, *, checkpoints: Any = ()) -> None:
            build(self, checkpoints=checkpoints)
            self.trainer.callbacks.insert(0, PressCtrlC(**place))

        monkeypatch.setattr(StageCLI, "build", pressed)

    yield at
    monkeypatch.undo()


def weights(run: Path, kind: str) -> dict[str, torch.Tensor]:
    return load_file(run / kind / "model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "kind"),
    [("aekl", "autoencoder"), ("ldae_pretrain", "denoiser"), ("ldae_repr_learn", "representation")],
)
def test_ctrl_c_within_an_epoch_saves_and_the_same_command_goes_on(
    config: str, kind: str, stage, ldae, press, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, words = stage(config, *SETTINGS)
    press(epoch=1, batch=3)
    said = ldae(*words)
    assert said.code == 130
    checkpoint = run / "checkpoints" / kind / "last.ckpt"
    assert said.err.splitlines()[-1] == (
        f"ldae: Stopped and saved in {checkpoint}. The same command goes on from there."
    )
    assert "Traceback" not in said.err
    saved = torch.load(checkpoint, weights_only=True)
    assert saved["epoch"] == 1
    assert saved["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["completed"] == 4
    assert not (run / kind).exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    monkeypatch.undo()
    said = ldae(*words)
    assert said.code == 0, said.err
    assert "Going on from" in said.out

    whole, words = stage(config, *SETTINGS, name="whole")
    assert ldae(*words).code == 0
    first, second = weights(run, kind), weights(whole, kind)
    assert [name for name, value in first.items() if not torch.equal(value, second[name])] == []


def test_sigterm_saves_and_the_same_command_goes_on(stage, ldae, press, monkeypatch) -> None:
    """However often it comes, as `timeout` sends it to a process and to its group."""
    run, words = stage("ldae_pretrain", *SETTINGS)
    press(epoch=1, batch=3, times=2, number=signal.SIGTERM)
    said = ldae(*words)
    assert said.code == 143
    checkpoint = run / "checkpoints" / "denoiser" / "last.ckpt"
    assert said.err == f"ldae: Stopped and saved in {checkpoint}. The same command goes on from there.\n"
    progress = torch.load(checkpoint, weights_only=True)["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    assert progress["current"]["completed"] == 4
    assert not list(run.rglob(".*.lock"))
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    monkeypatch.undo()
    assert ldae(*words).code == 0

    whole, words = stage("ldae_pretrain", *SETTINGS, name="whole")
    assert ldae(*words).code == 0
    first, second = weights(run, "denoiser"), weights(whole, "denoiser")
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_sigterm_in_the_last_step_ends_and_the_same_command_exports(stage, ldae, press, monkeypatch) -> None:
    run, words = stage("ldae_pretrain", "--trainer.max_epochs=1", "--data.init_args.batch_size=8")
    press(epoch=0, batch=2, number=signal.SIGTERM)
    assert ldae(*words).code == 143
    assert not (run / "denoiser").exists()
    monkeypatch.undo()
    said = ldae(*words)
    assert said.code == 0, said.err
    assert (run / "denoiser" / "config.json").is_file()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_training_anew_says_that_the_same_command_begins_anew(stage, ldae, press, number: int) -> None:
    run, words = stage("ldae_pretrain", *SETTINGS)
    assert ldae(*words, "--trainer.max_epochs=1").code == 0
    press(epoch=1, batch=2, number=number)
    said = ldae(*words, "--overwrite", "true")
    assert "last.ckpt. The same command without --overwrite goes on from there." in said.err
    press(epoch=0, batch=2, number=number)
    said = ldae(*words, "--trainer.max_epochs=2", "--overwrite", "stale")
    assert "last.ckpt. The same command goes on from there." in said.err
    assert not list((run / "checkpoints").rglob(".partial*"))


@pytest.mark.parametrize(
    ("epoch", "told"), [(0, "Stopped before anything was saved"), (1, "Stopped and saved in")]
)
def test_ctrl_c_again_ends_at_once_with_the_last_epoch(stage, ldae, press, epoch: int, told: str) -> None:
    run, words = stage("ldae_pretrain", *SETTINGS)
    press(epoch=epoch, batch=3, times=2)
    said = ldae(*words)
    assert said.code == 130
    assert told in said.err
    assert "Traceback" not in said.err
    if epoch:
        saved = torch.load(run / "checkpoints" / "denoiser" / "last.ckpt", weights_only=True)
        assert saved["epoch"] == 0


def test_ctrl_c_in_the_last_epoch_s_last_step_finishes_the_stage(stage, ldae, press) -> None:
    run, words = stage("ldae_pretrain", "--trainer.max_epochs=1", "--data.init_args.batch_size=8")
    press(epoch=0, batch=2)
    said = ldae(*words)
    assert said.code == 0, said.err
    assert (run / "denoiser" / "config.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_another_verb_ends_with_a_sentence(tmp_path: Path, start, number: int, code: int) -> None:
    out = tmp_path / "cohort"
    process = start("phantom", "--out", out, "--subjects", "400", "--jobs", "1")
    deadline = time.monotonic() + 120
    while not list(out.glob("scans/*/*.nii.gz")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == code
    assert err.splitlines()[-1] == (
        "ldae: Stopped. What was finished is kept, and the same command goes on from there."
    )
    assert "Traceback" not in err
    assert not list(out.rglob(".partial-*"))
    assert not (out / ".lock").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_with_loader_processes(stage, start, number: int, code: int) -> None:
    """The whole process group gets the signal, as from a terminal or a scheduler."""
    run, words = stage("ldae_repr_learn", *SETTINGS[1:], "--trainer.max_epochs=400")
    process = start(*words, "--data.init_args.num_workers=1")
    checkpoint = run / "checkpoints" / "representation" / "last.ckpt"
    deadline = time.monotonic() + 120
    while not checkpoint.is_file() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert "Stopped and saved in" in err
    assert "Traceback" not in err
