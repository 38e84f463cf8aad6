# SPDX-License-Identifier: Apache-2.0
"""What the stages share: seeding by epoch, learning-rate schedules, frozen parts, and export."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ldae.nets.blocks import to_channels_last

FROZEN_PREFIX = "frozen."
SEED_STRIDE = 1_000_003


@dataclass(frozen=True)
class OptimiserConfig:
    """Adam and its learning rate over time.

    Attributes:
        lr: Highest learning rate.
        weight_decay: Decoupled weight decay (AdamW); 0 is Adam.
        schedule: "constant", or "cosine" down to a hundredth after the warm-up.
        warmup: Share of all optimiser steps with a linearly rising rate, for "cosine".
        betas: Adam's two decay rates.
    """

    lr: float = 1e-4
    weight_decay: float = 0.0
    schedule: Literal["constant", "cosine"] = "constant"
    warmup: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)


def learning_rate_factor(config: OptimiserConfig, step: int, *, phases: Sequence[int]) -> float:
    """The learning rate at an optimiser step as a share of its highest value.

    Args:
        config: The schedule.
        step: Optimiser steps taken so far.
        phases: Optimiser steps of each phase of the training; the schedule starts again in each.
    """
    if config.schedule == "constant":
        return 1.0
    phase = 0
    while phase < len(phases) - 1 and step >= phases[phase]:
        step -= phases[phase]
        phase += 1
    total = phases[phase]
    rise = max(1, round(config.warmup * total))
    if step < rise:
        return (step + 1) / rise
    progress = min(1.0, (step - rise) / max(1, total - rise))
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))


def make_optimiser(
    config: OptimiserConfig, parameters: list[torch.nn.Parameter] | list[dict[str, Any]], *, phases: Sequence[int]
) -> tuple[Optimizer, LambdaLR]:
    """Adam over `parameters` with its schedule over the optimiser steps of each phase."""
    optimiser = torch.optim.AdamW(parameters, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay)
    return optimiser, LambdaLR(optimiser, lambda step: learning_rate_factor(config, step, phases=phases))


class Stage(LightningModule):
    """One training stage of the pipeline.

    Every epoch starts from a seed of its own, so that a run that was killed and goes on from the end of an epoch
    draws what an uninterrupted run draws. Parts named `frozen` stay in eval mode and out of checkpoints.

    Args:
        run_dir: Folder of the run, where earlier stages lie and this one is written.
        seed: Seed of every random draw of the stage.
    """

    kind: str

    def __init__(self, *, run_dir: str, seed: int) -> None:
        super().__init__()
        self.run_dir = Path(run_dir)
        self.seed = seed

    def on_fit_start(self) -> None:
        """Lay the weights out as the processor likes them."""
        if self.device.type == "cpu":
            to_channels_last(self)

    def on_train_epoch_start(self) -> None:
        """Seed the epoch."""
        torch.manual_seed(self.seed * SEED_STRIDE + self.current_epoch)

    def train(self, mode: bool = True) -> Stage:
        """Train mode for all but the frozen parts."""
        super().train(mode)
        frozen = getattr(self, "frozen", None)
        if isinstance(frozen, torch.nn.Module):
            frozen.eval()
        return self

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave frozen weights out: they lie in their own component."""
        weights = checkpoint["state_dict"]
        checkpoint["state_dict"] = {
            name: value for name, value in weights.items() if not name.startswith(FROZEN_PREFIX)
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take frozen weights from the component that was loaded."""
        own = {name: value for name, value in self.state_dict().items() if name.startswith(FROZEN_PREFIX)}
        checkpoint["state_dict"].update(own)

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole training."""
        return max(1, int(self.trainer.estimated_stepping_batches))

    @abstractmethod
    def export(self, folder: Path) -> str:
        """Write the trained component into `folder` and return its sha256."""
