# SPDX-License-Identifier: Apache-2.0
"""The checkpoint that an interrupted training goes on from: every epoch's, and the one of a Ctrl-C."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor

from ldae.data.samplers import EpochSampler
from ldae.data.storage import writing
from ldae.errors import CheckpointError, Interrupted

AWAY = "Bring the whole file back, or train anew with --overwrite true."


class EpochCheckpoint(Checkpoint):
    """Keeps one checkpoint, that of the last finished epoch or, after Ctrl-C, of the last finished step.

    Lightning writes a file bit by bit, so a kill in between would leave half a checkpoint in the place of
    the whole one: here the file is written beside the old one and replaces it at once.

    The first Ctrl-C saves and ends after the current step, the second one ends at once. A checkpoint
    within an epoch also holds the state of the random numbers, so that what follows is what would have been.

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
        self.stopping = False
        self._within_epoch = False
        self._random: dict[str, Tensor] = {}
        self._before: Any = None

    @property
    def seconds(self) -> float:
        """Seconds spent on the stage, over all interruptions."""
        return self.earlier + time.perf_counter() - self.started

    def state_dict(self) -> dict[str, Any]:
        """The random numbers' state, of a checkpoint within an epoch; every epoch begins with its own."""
        if not self._within_epoch:
            return {}
        state = {"cpu": torch.get_rng_state()}
        return state | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the random numbers' state for the first step."""
        self._random = dict(state_dict)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on Ctrl-C waits for the step."""
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._stop)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Go on with the random numbers of a checkpoint; save and end when asked to, between two steps."""
        if self._random:
            torch.set_rng_state(self._random["cpu"])
            if "cuda" in self._random and torch.cuda.is_available():
                torch.cuda.set_rng_state(self._random["cuda"])
            self._random = {}
        step = trainer.accumulate_grad_batches * getattr(pl_module, "accumulate", 1)
        if self.stopping and batch_idx and batch_idx % step == 0 and _can_go_on_within_epoch(trainer):
            self._within_epoch = True
            self._save(trainer)
            raise self._interrupted()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save."""
        self._within_epoch = False
        self._save(trainer)
        if self.stopping and trainer.current_epoch + 1 < (trainer.max_epochs or 0):
            raise self._interrupted()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ctrl-C as before."""
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Ctrl-C as before."""
        self._restore()

    def _restore(self) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None

    def _stop(self, number: int, frame: Any) -> None:
        if self.stopping:
            raise self._interrupted()
        self.stopping = True
        # not print: the signal may come while something is printed
        os.write(2, b"Saving, then stopping; Ctrl-C again stops at once.\n")

    def _interrupted(self) -> Interrupted:
        if self.path.is_file():
            return Interrupted(f"Stopped and saved in {self.path}. The same command goes on from there.")
        return Interrupted("Stopped before anything was saved. The same command begins anew.")

    def _save(self, trainer: Trainer) -> None:
        partial = self.path.with_name(f".partial-{self.path.name}")
        try:
            with writing(self.path):
                trainer.save_checkpoint(partial)
            if trainer.is_global_zero:
                os.replace(partial, self.path)
                self.saved(self.seconds)
        finally:
            if trainer.is_global_zero:
                partial.unlink(missing_ok=True)


def _can_go_on_within_epoch(trainer: Trainer) -> bool:
    """Whether the sampler can leave out what was seen; several processes end with the epoch, together."""
    sampler = getattr(trainer.train_dataloader, "sampler", None)
    return trainer.world_size == 1 and isinstance(sampler, EpochSampler)


def check_checkpoint(path: Path) -> None:
    """Stop on a checkpoint that is cut short or something else; nothing in it is executed.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: It is no whole checkpoint of a training.
    """
    try:
        document = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError:
        raise
    except (RuntimeError, ValueError, OSError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise CheckpointError(f"{path} must be a whole checkpoint of fit, got: {reason}. {AWAY}") from error
    if not isinstance(document, dict) or not {"state_dict", "loops", "epoch"} <= document.keys():
        raise CheckpointError(f"{path} must be a checkpoint of fit, got something else. {AWAY}")
