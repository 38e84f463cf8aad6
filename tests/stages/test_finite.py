# SPDX-License-Identifier: Apache-2.0
"""A loss that is no number stops the training with the scans' names and keeps the last good checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ldae.cli.main import main
from ldae.data.artefact import read_json
from ldae.data.cache import VolumeCache
from ldae.data.cohort import read_cohort
from ldae.data.datamodule import LatentDataModule
from ldae.data.spec import PreprocessingSpec
from ldae.nets.unet import UNetConfig
from ldae.stages import DenoiserStage

ROOT = Path(__file__).resolve().parents[2]
UNET = UNetConfig(base=8, multipliers=(1, 2), blocks=1, attention_levels=(1,), head_channels=8, groups=4)


def words(config: str, run: Path) -> list[str]:
    overlay = ROOT / "tests" / "tiny" / f"{config}.yaml"
    return ["fit", f"--config=demo/{config}.yaml", f"--config={overlay}", f"--run_dir={run}"]


@pytest.mark.parametrize(("config", "kind"), [("aekl", "autoencoder"), ("ldae_repr_learn", "representation")])
def test_a_volume_that_is_no_number_is_named(
    config: str, kind: str, tiny_run: Path, branch: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    run = branch("run", "cohort", *(("autoencoder", "denoiser", "latents") if kind != "autoencoder" else ()))
    shutil.copytree(tiny_run / "cache", run / "cache")
    spec = PreprocessingSpec.from_dict(read_json(tiny_run / "autoencoder" / "config.json")["spec"])
    row = read_cohort(run / "cohort" / "cohort.csv", check="table").query("split == 'train'").iloc[3]
    entry = run / "cache" / f"{VolumeCache(run / 'cache', spec).key(row.path)}.npy"
    volume = np.load(entry)
    volume[0, 0, 0] = np.nan
    np.save(entry, volume)
    assert main(words(config, run)) == 2
    said = capfd.readouterr().err.splitlines()[-1]
    assert "the loss was nan after batch" in said
    assert f"{row.subject} {row.session} ({row.path})" in said
    assert "No epoch had been finished." in said
    assert not (run / kind).exists()


def test_the_last_good_checkpoint_is_kept(
    branch: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run = branch("run", "cohort", "cache", "autoencoder", "latents")
    start = DenoiserStage.on_train_epoch_start

    def poisoned(self: DenoiserStage) -> None:
        start(self)
        if self.current_epoch == 1:
            self.datamodule.datasets["train"].mean[:] = torch.inf

    monkeypatch.setattr(DenoiserStage, "on_train_epoch_start", poisoned)
    assert main(words("ldae_pretrain", run)) == 2
    said = capfd.readouterr().err
    assert "after batch 1 of epoch 2" in said
    assert "The checkpoint of the last good epoch is kept." in said
    saved = torch.load(run / "checkpoints" / "denoiser" / "last.ckpt", weights_only=True)
    assert saved["epoch"] == 0
    assert all(bool(torch.isfinite(value).all()) for value in saved["state_dict"].values())
    monkeypatch.undo()
    assert main(words("ldae_pretrain", run)) == 0
    assert "Going on from" in capfd.readouterr().out


def test_weights_that_are_no_numbers_are_found_at_the_end_of_the_epoch(
    tiny_run: Path, branch: Callable[..., Path], train: Callable[..., Any]
) -> None:
    class Broken(DenoiserStage):
        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            super().on_train_batch_end(outputs, batch, batch_idx)
            if batch_idx == 3:
                with torch.no_grad():
                    next(self.unet.parameters()).fill_(torch.nan)

    run = branch("run", "autoencoder", "latents", "cache")
    stage = Broken(run_dir=str(run), unet=UNET)
    with pytest.raises(ValueError, match=r"weights were NaN or infinite \(unet.*after batch 4 of epoch 1"):
        train(stage)


def test_names_end_where_a_reader_would(
    tiny_run: Path, branch: Callable[..., Path], train: Callable[..., Any]
) -> None:
    class Poisoned(DenoiserStage):
        def on_train_epoch_start(self) -> None:
            super().on_train_epoch_start()
            self.datamodule.datasets["train"].mean[:] = torch.nan

    run = branch("run", "autoencoder", "latents", "cache")
    stage = Poisoned(run_dir=str(run), unet=UNET)
    with pytest.raises(ValueError, match="and 2 more") as told:
        train(stage, batch_size=18)
    assert str(told.value).count(".nii.gz") == 16
    assert isinstance(stage.datamodule, LatentDataModule)
