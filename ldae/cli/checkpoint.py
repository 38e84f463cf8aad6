# SPDX-License-Identifier: Apache-2.0
"""The checkpoint that an interrupted training goes on from: every epoch's, and that of Ctrl-C or SIGTERM."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from ldae.cli.ending import TERMINATED, Terminated
from ldae.cli.processes import is_ordered
from ldae.data.artefact import PARTIAL, atomic_path
from ldae.data.samplers import EpochSampler
from ldae.errors import CheckpointError, Interrupted

JUDGING = ("validate_loop", "test_loop")
AWAY = "Bring the whole file back, or train anew with --overwrite true."


class BesideCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place, where Lightning's goes through TMPDIR, which may be small."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write it whole or not at all, or as a partial file that the caller puts in place."""
        if Path(path).name.startswith(PARTIAL):
            torch.save(checkpoint, path)
            return
        with atomic_path(path) as temporary:
            torch.save(checkpoint, temporary)


class EpochCheckpoint(Checkpoint):
    """Keeps one checkpoint, that of the last finished epoch or, after a stop, of the last finished step.

    The first Ctrl-C saves and ends after the current step, the second one ends at once; SIGTERM is a first
    Ctrl-C however often it comes. A checkpoint within an epoch also holds the state of the random numbers, so
    that what follows is what would have been. Several processes leave the epoch that SIGTERM ends unsaved.

    Args:
        path: The checkpoint.
        started: When the command began, by `time.perf_counter`.
        earlier: Seconds spent before that, by a command that was interrupted.
        saving: Called with the seconds spent so far, over all interruptions, when a checkpoint is written and
            about to take its place.
        kept: Whether the path holds a checkpoint of this training already.
        command: What goes on from it, as a person would say.
    """

    def __init__(
        self,
        path: Path,
        *,
        started: float,
        earlier: float,
        saving: Callable[[float], None],
        kept: bool,
        command: str = "The same command",
    ) -> None:
        self.path = path
        self.started = started
        self.earlier = earlier
        self.saving = saving
        self.kept = kept
        self.command = command
        self.stopping = False
        self.terminated = False
        self._within_epoch = False
        self._random: dict[str, Tensor] = {}
        self._before: dict[int, Any] = {}

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

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write beside the checkpoint's place; how other formats are written is theirs to say."""
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = BesideCheckpointIO()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on Ctrl-C and SIGTERM wait for the step."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._stop)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Go on with the random numbers of a checkpoint; save and end when asked to, between two steps."""
        if self._random:
            torch.set_rng_state(self._random["cpu"])
            if "cuda" in self._random and torch.cuda.is_available():
                torch.cuda.set_rng_state(self._random["cuda"])
            self._random = {}
        ordered = self._is_ordered(trainer)
        step = trainer.accumulate_grad_batches * getattr(pl_module, "accumulate", 1)
        can_save = _can_go_on_within_epoch(trainer)
        if (self.stopping or ordered) and can_save and batch_idx and batch_idx % step == 0:
            self._within_epoch = True
            self._save(trainer)
            raise self.ended(trainer)
        if ordered and not (can_save and batch_idx):
            raise self.ended(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save."""
        self._within_epoch = False
        self._save(trainer)
        ordered = self._is_ordered(trainer)
        if ordered or (self.stopping and trainer.current_epoch + 1 < (trainer.max_epochs or 0)):
            raise self.ended(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ctrl-C and SIGTERM as before."""
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Ctrl-C and SIGTERM as before."""
        self._restore()

    def ended(self, trainer: Trainer) -> BaseException:
        """What ends this process because it was asked to; the first of several says where to go on."""
        if not self.terminated:
            return Interrupted(self._told())
        return Terminated(self._told()) if trainer.is_global_zero else SystemExit(TERMINATED)

    def _is_ordered(self, trainer: Trainer) -> bool:
        """Whether SIGTERM has come to any process; what comes while they ask each other counts next time."""
        ordered = is_ordered(self.terminated, trainer=trainer)
        if ordered:
            self.terminated = True
        return ordered

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _stop(self, number: int, frame: Any) -> None:
        if number == signal.SIGTERM:
            self.terminated = True
            return
        if self.stopping:
            raise Interrupted(self._told())
        self.stopping = True
        # not print: the signal may come while something is printed
        os.write(2, b"Saving, then stopping; Ctrl-C again stops at once.\n")

    def _told(self) -> str:
        if self.kept:
            return f"Stopped and saved in {self.path}. {self.command} goes on from there."
        return "Stopped before anything was saved. The same command begins anew."

    def _save(self, trainer: Trainer) -> None:
        if not trainer.is_global_zero:
            trainer.save_checkpoint(self.path)  # which the first process writes
        else:
            with atomic_path(self.path) as temporary:
                trainer.save_checkpoint(temporary)
                self.saving(self.seconds)
        self.kept = True


def _can_go_on_within_epoch(trainer: Trainer) -> bool:
    """Whether the sampler can leave out what was seen; several processes end with the epoch, together."""
    sampler = getattr(trainer.train_dataloader, "sampler", None)
    return trainer.world_size == 1 and isinstance(sampler, EpochSampler)


def check_checkpoint(path: Path, *, training: bool) -> None:
    """Stop on a checkpoint that is cut short or something else; nothing in it is executed.

    Args:
        path: The checkpoint.
        training: Whether a training shall go on from it, for which weights alone are not enough.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: It is no whole checkpoint of a training.
    """
    if path.is_file() and not zipfile.is_zipfile(path):
        raise CheckpointError(
            f"{path} must be a whole checkpoint of fit, got one cut short, or another file. {AWAY}"
        )
    try:
        document = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError:
        raise
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} must be a checkpoint of fit, got objects that loading would execute. {AWAY}"
        ) from error
    except (RuntimeError, ValueError, OSError, EOFError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise CheckpointError(f"{path} must be a whole checkpoint of fit, got: {reason}. {AWAY}") from error
    if not isinstance(document, dict) or not _can_be_judged(document, training=training):
        raise CheckpointError(f"{path} must be a checkpoint of fit, got something else. {AWAY}")
    if training and not _has_all(document):
        raise CheckpointError(
            f"{path} must hold all that a training goes on from, got weights without the state of the "
            f"optimiser or how far it has come. {AWAY}"
        )


def _can_be_judged(document: dict[str, Any], *, training: bool) -> bool:
    """Whether a checkpoint has weights, what wrote it, and, if any, the loops that judging goes on from."""
    loops = None if training else document.get("loops")
    kinds = {"state_dict": dict, "pytorch-lightning_version": str}
    return all(isinstance(document.get(key), kind) for key, kind in kinds.items()) and (
        loops is None
        or (isinstance(loops, dict) and all(isinstance(loops.get(name), dict) for name in JUDGING))
    )


def _has_all(document: dict[str, Any]) -> bool:
    """Whether a checkpoint has the optimisers' state and how far the training has come."""
    try:
        optimisers = all({"state", "param_groups"} <= one.keys() for one in document["optimizer_states"])
        numbers = type(document["epoch"]) is int and type(document["global_step"]) is int
        loop, schedules = document["loops"]["fit_loop"], document["lr_schedulers"]
    except (TypeError, KeyError, AttributeError):
        return False
    return optimisers and numbers and isinstance(loop, dict) and isinstance(schedules, list)
