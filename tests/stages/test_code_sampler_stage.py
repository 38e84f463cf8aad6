# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from safetensors.torch import load_file

from ldae.data.artefact import read_json, sha256_file
from ldae.data.code_data import CodeDataModule
from ldae.data.embeddings import read_embeddings, write_embeddings
from ldae.diffusion.code_sampler import CodeAxes, CodeSampler
from ldae.errors import CheckpointError, InputError
from ldae.nets.code_denoiser import CodeDenoiser, CodeDenoiserConfig
from ldae.stages.code_sampler import CodeSamplerStage
from ldae.stages.components import load_code_sampler
from ldae.stages.stage import OptimiserConfig

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


def train(
    run: Path,
    *,
    checkpoint: Path | None = None,
    condition: str | None = "diagnosis",
    batch_size: int = 4,
    settings: dict[str, Any] | None = None,
    **more: Any,
):
    network = CodeDenoiserConfig(width=16, layers=3, embedding=8, dropout=0.1)
    stage = CodeSamplerStage(run_dir=str(run), **(settings or {"network": network, "ema_decay": 0.8}))
    trainer = Trainer(
        **{"max_epochs": EPOCHS, **more},
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=run,
    )
    data = CodeDataModule(run_dir=str(run), condition=condition, batch_size=batch_size)
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


RADIUS, SIZE = 3.0, 16


def rings_and_pairs(n: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes of AD on a ring and of CN in two heaps, in 2 of 16 directions, with one mean; and the classes.

    Up to the third moment each class is as its Gaussian.
    """
    random = np.random.default_rng(seed)
    classes = np.where(random.random(n) < 0.5, "AD", "CN")
    turn = np.where(classes == "AD", random.uniform(0, 2 * np.pi, n), np.pi * random.integers(0, 2, n))
    codes = random.normal(size=(n, SIZE))
    plane = RADIUS * np.stack([np.cos(turn), np.sin(turn)], 1)
    codes[:, :2] = plane + 0.2 * codes[:, :2]
    return codes, classes


def turned(codes: np.ndarray, *, back: bool = False) -> np.ndarray:
    """The same codes seen along other directions, far from 0."""
    axes = np.linalg.qr(np.random.default_rng(99).normal(size=(SIZE, SIZE)))[0]
    return (codes - 5) @ axes.T if back else codes @ axes + 5


def test_a_ring_and_two_heaps_are_learned(run: Path, tmp_path: Path) -> None:
    """What the Gaussians of the classes cannot tell; the judge's scales are those of real codes."""

    def known(frame: pd.DataFrame) -> pd.DataFrame:
        codes, classes = rings_and_pairs(1200, seed=0)
        told = {
            "subject": [f"s{place:04d}" for place in range(1200)],
            "session": "1",
            "split": np.where(np.arange(1200) < 1000, "train", "val"),
            "path": "scan.nii.gz",
            "diagnosis": classes,
            "age": 70.0,
        }
        columns = {
            f"y_{place:03d}": column for place, column in enumerate(turned(codes).T.astype(np.float32))
        }
        made = pd.DataFrame({**told, **columns})
        made.attrs = frame.attrs
        return made

    replaced(run, known)
    stage, _ = train(
        run,
        batch_size=250,
        settings={
            "network": CodeDenoiserConfig(width=128, layers=4, embedding=32),
            "optimiser": OptimiserConfig(lr=2e-3, schedule="cosine"),
            "ema_decay": 0.98,
            "draws": 2,
        },
        max_epochs=100,
        check_val_every_n_epoch=10,
    )
    stage.export(tmp_path / "out")
    sampler, component = load_code_sampler(tmp_path / "out")
    assert component.extra["loss"] < 0.9 * component.extra["loss_gaussian"]
    noise = torch.randn((400, SIZE), generator=torch.Generator().manual_seed(3))
    gaussian = CodeSampler(
        CodeDenoiser(CodeDenoiserConfig(width=8, layers=2, embedding=8), size=SIZE, classes=2),
        CodeAxes(*(getattr(sampler, name) for name in CodeAxes._fields)),
        schedule=sampler.schedule,
        classes=sampler.classes,
    )
    off = {"AD": [], "CN": []}
    for name, errors in off.items():
        labels = torch.full((400,), sampler.label(name))
        for one in (sampler, gaussian):
            drawn = turned(one.draw(noise, labels, steps=50).double().numpy(), back=True)
            x, y = drawn[:, 0], drawn[:, 1]
            away = np.hypot(x, y) - RADIUS if name == "AD" else np.hypot(np.abs(x) - RADIUS, y)
            errors.append(float(np.abs(away).mean()))
            rest = drawn[:, 2:]
            np.testing.assert_allclose(rest.std(0), 1, atol=0.2)
        learned, untold = errors
        assert learned < 0.35 * untold
    print(off, component.extra)


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
