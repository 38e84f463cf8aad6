# SPDX-License-Identifier: Apache-2.0
"""The checkpoint that a killed training goes on from, written at the end of every epoch."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint


class EpochCheckpoint(Checkpoint):
    """Keeps one checkpoint, that of the last finished epoch.

    Lightning writes a file bit by bit, so a kill in between would leave half a checkpoint in the place of
    the whole one: here the file is written beside the old one and replaces it at once.

    Args:
        path: The checkpoint.
        started: When the command began, by `time.perf_counter`.
        earlier: Seconds spent before that, by a command that was interrupted.
        saved: Called with the seconds spent so far, over all interruptions, after each checkpoint.
    """

    def __init__(self, path: Path, *, started: float, earlier: float, saved: Callable[[float], None]) -> None:
        self.path = path
        self.started = started
        self.saved = saved
        self.earlier = earlier

    @property
    def seconds(self) -> float:
        """Seconds spent on the stage, over all interruptions."""
        return self.earlier + time.perf_counter() - self.started

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save."""
        partial = self.path.with_name(f".partial-{self.path.name}")
        trainer.save_checkpoint(partial)
        if trainer.is_global_zero:
            os.replace(partial, self.path)
            self.saved(self.seconds)
