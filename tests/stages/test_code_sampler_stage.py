# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from safetensors.torch import load_file

from ldae.data.artefact import read_json, sha256_file
from ldae.data.code_data import CodeDataModule
from ldae.data.embeddings import read_embeddings, write_embeddings
from ldae.errors import CheckpointError, InputError
from ldae.nets.code_denoiser import CodeDenoiserConfig
from ldae.stages.code_sampler import CodeSamplerStage
from ldae.stages.components import load_code_sampler

NEEDED = ("autoencoder", "denoiser", "representation", "embeddings.parquet")
EPOCHS = 6


class KeepCheckpoint(Callback):
    """Saves at the end of an epoch, as if the run had been killed right after."""

    def __init__(self, path: Path, *, epoch: int) -> None:
        self.path, self.epoch = path, epoch

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == self.epoch:
            trainer.save_checkpoint(self.path)


@pytest.fixture
def run(branch: Callable[..., Path]) -> Path:
    return branch("run", *NEEDED)


def train(run: Path, *, checkpoint: Path | None = None, condition: str | None = "diagnosis", **more: Any):
    network = CodeDenoiserConfig(width=16, layers=3, embedding=8, dropout=0.1)
    stage = CodeSamplerStage(run_dir=str(run), network=network, ema_decay=0.8)
    trainer = Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=run,
        **more,
    )
    data = CodeDataModule(run_dir=str(run), condition=condition, batch_size=4)
    trainer.fit(stage, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return stage, trainer


def test_a_resumed_run_ends_with_the_same_weights(run: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept.ckpt"
    train(run, callbacks=[KeepCheckpoint(kept, epoch=2)])[0].export(tmp_path / "whole")
    train(run, checkpoint=kept)[0].export(tmp_path / "resumed")
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("whole", "resumed")]
    assert weights[0].keys() == weights[1].keys()
    assert [name for name, value in weights[0].items() if not torch.equal(value, weights[1][name])] == []
    extra = [read_json(tmp_path / name / "config.json")["extra"] for name in ("whole", "resumed")]
    assert extra[0] == extra[1]


def test_the_best_average_is_exported(run: Path, tmp_path: Path) -> None:
    stage, trainer = train(run)
    stage.export(tmp_path / "out")
    extra = read_json(tmp_path / "out" / "config.json")["extra"]
    # the check before training judges the Gaussians, which nothing that is kept may be worse than
    assert extra["loss"] <= extra["loss_gaussian"] + 1e-6
    trainer.validate(stage, datamodule=trainer.datamodule, verbose=False)
    assert extra["loss"] <= float(trainer.callback_metrics["val/loss"]) + 1e-6
    best = {name: value.clone() for name, value in stage.best.state_dict().items()}
    trainer.test(stage, datamodule=trainer.datamodule, verbose=False)
    assert 0 < float(trainer.callback_metrics["test/loss"]) < 10
    assert all(torch.equal(value, best[name]) for name, value in stage.best.state_dict().items())


def test_the_component_names_what_it_was_made_from(run: Path, tmp_path: Path) -> None:
    train(run)[0].export(tmp_path / "out")
    sampler, component = load_code_sampler(tmp_path / "out")
    frame = read_embeddings(run / "embeddings.parquet")
    assert sampler.classes == tuple(sorted(frame["diagnosis"].dropna().unique()))
    assert component.parents["embeddings"] == sha256_file(run / "embeddings.parquet")
    assert set(component.parents) == {"autoencoder", "denoiser", "representation", "embeddings"}
    assert component.split == frame.attrs["split"]
    train_rows = frame[frame["split"] == "train"]
    assert component.extra["codes"] == len(train_rows)
    shares = train_rows["diagnosis"].value_counts(normalize=True)
    for place, name in enumerate(sampler.classes, start=1):
        assert float(sampler.shares[place]) == pytest.approx(shares[name])


def test_without_a_condition_there_are_no_classes(run: Path, tmp_path: Path) -> None:
    train(run, condition=None)[0].export(tmp_path / "out")
    sampler, component = load_code_sampler(tmp_path / "out")
    assert sampler.classes == ()
    assert component.config["condition"] is None
    assert torch.isfinite(sampler.draw(torch.randn(3, sampler.size), torch.zeros(3, dtype=torch.long))).all()


def replaced(run: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    frame = change(read_embeddings(run / "embeddings.parquet"))
    (run / "embeddings.parquet").unlink()
    write_embeddings(frame, run / "embeddings.parquet")


def test_embeddings_of_another_pipeline_are_refused(run: Path) -> None:
    def other(frame: pd.DataFrame) -> pd.DataFrame:
        frame.attrs["pipeline"] = "0" * 64
        return frame

    replaced(run, other)
    with pytest.raises(CheckpointError, match=r"was made by pipeline 000000000000, but .* holds pipeline"):
        CodeDataModule(run_dir=str(run)).setup()


def test_missing_embeddings_say_what_makes_them(run: Path) -> None:
    (run / "embeddings.parquet").unlink()
    with pytest.raises(FileNotFoundError, match="Run first: ldae embed --pipeline"):
        CodeDataModule(run_dir=str(run)).setup()


def test_a_table_without_the_condition_or_the_split_is_refused(run: Path) -> None:
    with pytest.raises(InputError, match=r"condition must be a column of .*, got 'group'"):
        CodeDataModule(run_dir=str(run), condition="group").setup()
    attrs = read_embeddings(run / "embeddings.parquet").attrs

    def only_training(frame: pd.DataFrame) -> pd.DataFrame:
        rows = frame[frame["split"] == "train"].reset_index(drop=True)
        rows.attrs = attrs
        return rows

    replaced(run, only_training)
    with pytest.raises(InputError, match="must hold scans of split val, got none"):
        CodeDataModule(run_dir=str(run)).setup()


@pytest.mark.parametrize("name", ["variance", "unlabelled"])
def test_shares_lie_between_0_and_1(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{name} must be a share between 0 and 1, got 1.5"):
        CodeSamplerStage(run_dir=str(tmp_path), **{name: 1.5})


def test_codes_validated_in_parts_are_judged_as_together(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage, trainer = train(run)
    codes = len(trainer.datamodule.datasets["val"])
    losses = []
    for size in (codes, codes - 1, 2):
        monkeypatch.setattr("ldae.stages.code_sampler.VALIDATED_AT_ONCE", size)
        trainer.validate(stage, datamodule=trainer.datamodule, verbose=False)
        losses.append({name: float(value) for name, value in trainer.callback_metrics.items()})
    assert codes > 2
    for other in losses[1:]:
        assert other == pytest.approx(losses[0], rel=1e-5)
