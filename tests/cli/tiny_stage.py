# SPDX-License-Identifier: Apache-2.0
"""A stage that trains in a blink, for the tests of what `fit` does around a stage."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from ldae.data.artefact import save_component
from ldae.errors import InputError


@dataclass(frozen=True)
class Part:
    """A nested table of the configuration."""

    width: int = 4

    def __post_init__(self) -> None:
        if self.width == 13:
            raise InputError("width must be another number than 13, got 13. Choose one.")


class TinyStage(LightningModule):
    """A linear layer with noise in its input; kills its own process in epoch `die_in`, as SIGKILL would."""

    kind = "tiny"

    def __init__(self, *, run_dir: str, part: Part | None = None, lr: float = 0.1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = torch.nn.Linear((part or Part()).width, 1)
        self.lr = lr

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            torch.manual_seed(self.current_epoch)
        if batch_idx == 2 and os.environ.get("TINY_STAGE_DIES_IN") == str(self.current_epoch):
            os.kill(os.getpid(), signal.SIGKILL)
        rank = os.environ.get("TINY_STAGE_FAILS_AS", "0")
        epoch = os.environ.get("TINY_STAGE_FAILS_IN")
        if batch_idx == 1 and (epoch, rank) == (str(self.current_epoch), str(self.global_rank)):
            raise RuntimeError("failed on purpose")

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = self.net(batch[0] + torch.randn_like(batch[0])).square().mean()
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val/loss", self.net(batch[0]).square().mean())

    def configure_optimizers(self) -> Any:
        optimiser = torch.optim.Adam(self.parameters(), lr=self.lr)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 0.9**step)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def export(self, folder: Path) -> str:
        return save_component(folder, kind=self.kind, config={}, tensors=self.net.state_dict())


class TinyData(LightningDataModule):
    """Rows of numbers."""

    def __init__(self, *, run_dir: str, cohort: str | None = None, num_workers: int = 0) -> None:
        super().__init__()

    def _loader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(torch.linspace(-1, 1, 128).view(32, 4)), batch_size=8)

    def train_dataloader(self) -> DataLoader[Any]:
        return self._loader()

    def val_dataloader(self) -> DataLoader[Any]:
        return self._loader()
