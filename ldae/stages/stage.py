# SPDX-License-Identifier: Apache-2.0
"""What the stages share: seeding by epoch, draws, gradients, frozen parts, and export."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.utilities import GradClipAlgorithmType
from torch import Tensor
from torch.optim import Optimizer

from ldae.errors import InputError
from ldae.nets.batch_norm import process_count
from ldae.nets.cpu_convolutions import fit_to_cpu
from ldae.nets.half_norms import norms_in_float32
from ldae.nets.shared_layers import share_layers
from ldae.stages.finite import FiniteLoss

FROZEN_PREFIX = "frozen."
SEED_STRIDE = 1_000_003
GOLDEN_RATIO = (5**0.5 - 1) / 2


class Stage(FiniteLoss):
    """One training stage of the pipeline.

    Every epoch starts from a seed of its own, so that a run that was killed and goes on from the end of an
    epoch draws what an uninterrupted run draws. Parts named `frozen` stay in eval mode and out of
    checkpoints.

    Args:
        run_dir: Folder of the run, where earlier stages lie and this one is written.
        seed: Seed of every random draw of the stage.
        compiled: Let torch.compile make the networks faster, which takes a minute at the start.
    """

    kind: str

    def __init__(self, *, run_dir: str, seed: int, compiled: bool = False) -> None:
        super().__init__()
        self.compiled = compiled
        self.run_dir = Path(run_dir)
        self.seed = seed

    @property
    def datamodule(self) -> Any:
        """The data module of the running `fit`: volumes for stage 1, latents for the others."""
        return self.trainer.datamodule  # type: ignore[attr-defined]  # set, but not declared

    def configure_model(self) -> None:
        """Fit the layers to the processor and the number of processes, and compile what is asked for.

        Weights are laid out before DDP takes note of how gradients lie: it mixes up those that lie otherwise.
        """
        share_layers(self)
        norms_in_float32(self)
        if self.device.type == "cpu":
            fit_to_cpu(self)
        if self.compiled:
            for network in self.networks():
                network.compile()

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

    def noise_like(self, scans: Tensor) -> Tensor:
        """Standard normal noise of the shape of `scans`, [B, ...].

        Of several processes each draws for all of them and keeps what belongs to its own scans: together they
        draw what one process would. Drawn in the order of the axes, however the processor laid out `scans`.
        """
        ranks = process_count()
        drawn = torch.randn(len(scans) * ranks, *scans.shape[1:], dtype=scans.dtype, device=scans.device)
        return drawn[self.global_rank :: ranks]

    def draw_levels(self, count: int, *, steps: int) -> Tensor:
        """Noise levels of so many scans, evenly from 0 to `steps` - 1, [B]; drawn as `noise_like` draws."""
        ranks = process_count()
        return torch.randint(steps, (count * ranks,), device=self.device)[self.global_rank :: ranks]

    def draw_shares(self, count: int) -> Tensor:
        """Numbers evenly from [0, 1), one for each of so many scans, [B]; drawn as `noise_like` draws."""
        ranks = process_count()
        return torch.rand(count * ranks, device=self.device)[self.global_rank :: ranks]

    def fixed_noise(self, scans: Tensor, *, index: Tensor) -> Tensor:
        """Noise of the shape of `scans` that depends on each scan's number alone, not on its batch."""
        drawn = [
            torch.randn(scans.shape[1:], generator=torch.Generator().manual_seed(self.seed + SEED_STRIDE * i))
            for i in index.tolist()
        ]
        return torch.stack(drawn).to(scans)

    def fixed_levels(self, index: Tensor, *, steps: int) -> Tensor:
        """Noise levels that depend on each scan's number alone and spread evenly over many numbers, [B]."""
        return ((index.double() * GOLDEN_RATIO) % 1 * steps).long()

    def group_size(self, batch_index: int, *, accumulate: int) -> int:
        """Batches of the optimiser step that this one belongs to; an epoch's last step may have fewer."""
        first = batch_index - batch_index % accumulate
        return int(min(accumulate, self.trainer.num_training_batches - first))

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """The gradient is the mean over the batches of a step; Lightning divides by those of a full one."""
        accumulate = self.trainer.accumulate_grad_batches
        size = self.group_size(self.trainer.fit_loop.batch_idx, accumulate=accumulate)
        super().backward(loss if size == accumulate else loss * (accumulate / size), *args, **kwargs)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradients, in mixed precision those without scale.

        Lightning's mixed precision refuses to clip for a fused optimiser, even where there is no scale.
        """
        plugin = self.trainer.precision_plugin
        if not gradient_clip_val or not isinstance(plugin, MixedPrecision):
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        if plugin.scaler is not None:
            plugin.scaler.unscale_(optimizer)
        algorithm = GradClipAlgorithmType(gradient_clip_algorithm or "norm")
        Precision.clip_gradients(plugin, optimizer, gradient_clip_val, algorithm)

    def validation_step(self, batch: dict[str, Tensor], batch_index: int) -> None:
        """Figures of `held_out` as val/..."""
        self._log_held_out(self.held_out(batch, batch_index), batch, split="val")

    def test_step(self, batch: dict[str, Tensor], batch_index: int) -> None:
        """The same figures of test scans, as test/..."""
        self._log_held_out(self.held_out(batch, batch_index), batch, split="test")

    def _log_held_out(self, figures: dict[str, Tensor], batch: dict[str, Tensor], *, split: str) -> None:
        size = len(next(iter(batch.values())))
        values = {f"{split}/{name}": value for name, value in figures.items()}
        self.log_dict(values, batch_size=size, prog_bar=True, sync_dist=True)

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole training.

        Raises:
            InputError: The training has no end, so that no learning rate can be planned.
        """
        if self.trainer.max_epochs == -1:
            raise InputError(
                "trainer.max_epochs must be given, got -1: learning rates and warm-ups are planned over the "
                "whole training. Give --trainer.max_epochs a number."
            )
        return max(1, int(self.trainer.estimated_stepping_batches))

    @abstractmethod
    def held_out(self, batch: dict[str, Tensor], batch_index: int) -> dict[str, Tensor]:
        """Figures of a batch that is not learned from, means over its scans."""

    @abstractmethod
    def networks(self) -> list[torch.nn.Module]:
        """The networks that a training step calls."""

    @abstractmethod
    def export(self, folder: Path) -> str:
        """Write the trained component into `folder` and return its sha256."""
