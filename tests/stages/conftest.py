# SPDX-License-Identifier: Apache-2.0
"""Run folders that share the tiny run's earlier stages, and a trainer without its trimmings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import LightningModule, Trainer

from ldae.data.datamodule import LatentDataModule

Branch = Callable[..., Path]


@pytest.fixture
def branch(tiny_run: Path, tmp_path: Path) -> Branch:
    """A run folder of its own with links to parts of the tiny run."""

    def make(name: str, *parts: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for part in parts:
            (folder / part).symlink_to(tiny_run / part)
        return folder

    return make


@pytest.fixture
def train(tiny_run: Path, tmp_path: Path) -> Callable[..., Trainer]:
    """Train a stage on the tiny run's latents."""

    def run(
        stage: LightningModule,
        *,
        cohort: Path = tiny_run / "cohort" / "cohort.csv",
        batch_size: int = 4,
        **settings: Any,
    ) -> Trainer:
        data = LatentDataModule(
            run_dir=str(stage.run_dir), cohort=str(cohort), volumes=True, batch_size=batch_size
        )
        trainer = Trainer(
            **{"max_epochs": 1, "limit_train_batches": 4, "limit_val_batches": 1, **settings},
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )
        trainer.fit(stage, datamodule=data)
        return trainer

    return run
