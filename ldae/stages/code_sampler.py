# SPDX-License-Identifier: Apache-2.0
"""The optional stage after the pipeline: a diffusion model of its codes (DiffAE, arXiv 2111.15640)."""

from __future__ import annotations

import copy
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ldae.configured import buildable
from ldae.data.artefact import NETWORKS, component_sha256, save_component
from ldae.diffusion.code_sampler import CodeAxes, CodeSampler, measure_codes
from ldae.diffusion.schedule import Schedule, ScheduleConfig
from ldae.errors import InputError
from ldae.nets.code_denoiser import UNKNOWN, CodeDenoiser, CodeDenoiserConfig
from ldae.stages.ema import ExponentialAverage
from ldae.stages.optimiser import OptimiserConfig, Phase, make_optimiser
from ldae.stages.stage import Stage

VALIDATION_LEVELS = 32
VALIDATED_AT_ONCE = 128
PASSED_AT_ONCE = 2048
"""Noised codes that pass through the network at a time: there are 32 of each code."""


class CodeSamplerStage(Stage):
    """Trains the code sampler; exports the average whose validation loss was the lowest.

    A few hundred codes are soon learned by heart, and what is learned by heart is drawn again: the validation
    loss says when to stop, and that of the classes' Gaussians beside it whether there was anything to learn.

    Args:
        run_dir: Folder of the run.
        network: Size of the MLP.
        schedule: Noise schedule.
        variance: Share of the codes' variance within classes whose principal axes are kept.
        unlabelled: Share of training codes whose class is not told, so that codes of no given class can be
            drawn (arXiv 2207.12598).
        draws: Noise levels drawn for each code of a batch.
        optimiser: Adam and its schedule.
        ema_decay: Decay of the weight average.
        seed: Seed of every random draw.
    """

    kind = "code_sampler"
    best_loss: Tensor
    gaussian_loss: Tensor

    def __init__(
        self,
        *,
        run_dir: str = "outputs/run",
        network: CodeDenoiserConfig | None = None,
        schedule: ScheduleConfig | None = None,
        variance: float = 0.999,
        unlabelled: float = 0.2,
        draws: int = 1,
        optimiser: OptimiserConfig | None = None,
        ema_decay: float = 0.999,
        seed: int = 0,
    ) -> None:
        super().__init__(run_dir=run_dir, seed=seed)
        for name, value in (("variance", variance), ("unlabelled", unlabelled)):
            if not 0 <= value <= 1:
                raise InputError(f"{name} must be a share between 0 and 1, got {value}.")
        self.network_config = network or CodeDenoiserConfig()
        self.schedule = Schedule(schedule)
        self.variance, self.unlabelled, self.draws = variance, unlabelled, draws
        self.optimiser_config = optimiser or OptimiserConfig()
        self.ema_decay = ema_decay
        self.sampler: CodeSampler
        self.register_buffer("best_loss", torch.tensor(math.inf))
        self.register_buffer("gaussian_loss", torch.tensor(math.inf))

    def setup(self, stage: str) -> None:
        """Find the principal axes of the training codes and build the network for them."""
        if hasattr(self, "sampler"):
            return
        data = self.datamodule
        train = data.datasets["train"]
        axes = measure_codes(train.codes, train.labels, classes=len(data.classes), variance=self.variance)
        with torch.random.fork_rng(), buildable("network must be such that it can be built"):
            torch.manual_seed(self.seed)
            network = CodeDenoiser(self.network_config, size=axes.axes.shape[1], classes=len(data.classes))
        self.sampler = CodeSampler(network, axes, schedule=self.schedule, classes=data.classes)
        self.ema = ExponentialAverage(network, decay=self.ema_decay)
        self.best = copy.deepcopy(network).requires_grad_(False)

    def configure_optimizers(self) -> Any:
        """Adam over the network."""
        config = self.optimiser_config
        phases = [Phase(self.total_steps, (config.lr,))]
        parameters = list(self.sampler.network.parameters())
        optimiser, schedule = make_optimiser(config, [parameters], phases=phases)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def optimizer_step(
        self, epoch: int, batch_index: int, optimizer: Optimizer | Any, closure: Any = None
    ) -> None:
        """One optimiser step, then one step of the average."""
        super().optimizer_step(epoch, batch_index, optimizer, closure)
        self.ema.update(self.sampler.network)

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> Tensor:
        """One batch {"code": [B, D], "label": [B]} at uniform levels."""
        # all codes once, then again: what several processes draw together belongs to the scans in their order
        codes, label = (torch.cat([batch[name]] * self.draws) for name in ("code", "label"))
        told = self.draw_shares(len(label)) >= self.unlabelled
        t = self.draw_levels(len(codes), steps=len(self.schedule))
        noise = self.noise_like(codes.new_empty(len(codes), self.sampler.size))
        label = torch.where(told, label, UNKNOWN)
        loss = self.sampler.errors(self.sampler.network, codes, t=t, noise=noise, label=label)[0].mean()
        self.log("train/loss", loss.detach(), batch_size=len(codes), prog_bar=True, sync_dist=True)
        return loss

    def held_out(self, batch: dict[str, Tensor], batch_index: int) -> dict[str, Tensor]:
        """The average's loss at even levels, class told and not, beside that of the classes' Gaussians.

        On test scans that of the weights that are exported.
        """
        network = self._exported if self.trainer.testing else self.ema.module
        generator = torch.Generator().manual_seed(self.seed + batch_index)
        values: dict[str, Tensor] = {}
        parts = (torch.split(batch[name], VALIDATED_AT_ONCE) for name in ("code", "label"))
        for codes, label in zip(*parts, strict=True):
            share = len(codes) / len(batch["code"])
            for name, value in self._errors_of(network, codes, label, generator=generator).items():
                values[name] = share * value + values.get(name, torch.zeros_like(value))
        # all validation codes are one batch; the check before the training counts, which judges the Gaussian
        if not self.trainer.testing and values["loss"] < self.best_loss:
            self.best_loss.copy_(values["loss"])
            self.gaussian_loss.copy_(values["gaussian"])
            self.best.load_state_dict(self.ema.module.state_dict())
        return values

    def _errors_of(
        self, network: CodeDenoiser, codes: Tensor, label: Tensor, *, generator: torch.Generator
    ) -> dict[str, Tensor]:
        codes, label = (values.repeat_interleave(VALIDATION_LEVELS, 0) for values in (codes, label))
        noise = torch.randn((len(codes), self.sampler.size), generator=generator).to(codes)
        levels = torch.linspace(0, len(self.schedule) - 1, VALIDATION_LEVELS, device=codes.device)
        t = levels.round().long().repeat(len(codes) // VALIDATION_LEVELS)
        found = {}
        for name, told in (("class", label), ("no_class", torch.full_like(label, UNKNOWN))):
            parts = [
                self.sampler.errors(network, y, t=level, noise=drawn, label=known)
                for y, level, drawn, known in zip(
                    *(torch.split(values, PASSED_AT_ONCE) for values in (codes, t, noise, told)), strict=True
                )
            ]
            found[name] = [torch.cat(errors) for errors in zip(*parts, strict=True)]
        values = {f"loss_{name}": errors[0].mean() for name, errors in found.items()}
        values["loss"] = torch.stack(list(values.values())).mean()
        values["gaussian"] = torch.stack([errors[1].mean() for errors in found.values()]).mean()
        return values

    @property
    def _exported(self) -> CodeDenoiser:
        """The best average; that of the end where nothing was validated."""
        return self.best if bool(torch.isfinite(self.best_loss)) else self.ema.module

    def networks(self) -> list[nn.Module]:
        """The denoiser of codes."""
        return [self.sampler.network]

    def export(self, folder: Path) -> str:
        """Write the best average with the principal axes, the schedule and the classes."""
        data = self.datamodule
        validated = bool(torch.isfinite(self.best_loss))
        tensors = {f"network.{name}": value for name, value in self._exported.state_dict().items()}
        return save_component(
            folder,
            kind=self.kind,
            config={
                "network": asdict(self.network_config),
                "schedule": asdict(self.schedule.config),
                "condition": data.condition,
                "classes": list(self.sampler.classes),
            },
            tensors={**tensors, **{name: getattr(self.sampler, name) for name in CodeAxes._fields}},
            spec=data.spec.to_dict(),
            split=data.split_hash,
            parents={
                **{kind: component_sha256(self.run_dir / kind) for kind in NETWORKS},
                "embeddings": data.embeddings_sha256,
            },
            extra={
                "codes": len(data.datasets["train"]),
                "loss": float(self.best_loss) if validated else None,
                "loss_gaussian": float(self.gaussian_loss) if validated else None,
            },
        )
