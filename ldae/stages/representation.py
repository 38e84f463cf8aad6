# SPDX-License-Identifier: Apache-2.0
"""Stage 3: semantic encoder and gradient estimator over the frozen denoiser (LDAE, arXiv 2504.08635)."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ldae.configured import buildable
from ldae.data.artefact import Component, component_sha256, save_component
from ldae.diffusion.model import GuidedDiffusion
from ldae.diffusion.prediction import add_noise
from ldae.errors import CheckpointError
from ldae.nets.batch_norm import mean_over_processes
from ldae.nets.blocks import zeroed
from ldae.nets.estimator import EstimatorConfig, GradientEstimator
from ldae.nets.semantic import SemanticConfig, SemanticEncoder
from ldae.stages.components import load_denoiser
from ldae.stages.ema import ExponentialAverage
from ldae.stages.optimiser import OptimiserConfig, Phase, make_optimiser
from ldae.stages.stage import Stage
from ldae.stages.warm_start import WarmStartConfig, spread_scans, start_at_components

UNEXPLAINED_RATE = 0.02
"""Share of each batch in the running variance of the latents about the regression."""


class Learned(nn.Module):
    """The two networks that stage 3 trains, averaged together."""

    def __init__(self, encoder: SemanticEncoder, estimator: GradientEstimator) -> None:
        super().__init__()
        self.encoder = encoder
        self.estimator = estimator


class RepresentationStage(Stage):
    """Learns what explains a latent: the encoder says y, the estimator says what y changes.

    The UNet of stage 2 stays frozen, in eval mode and bit-identical.

    Args:
        run_dir: Folder of the run.
        encoder: Form of the semantic encoder.
        estimator: Where the code enters.
        warm_start: Regression of the latents from the code.
        optimiser: Adam and its schedule.
        ema_decay: Decay of the weight average.
        seed: Seed of every random draw.
        compiled: Let torch.compile make the networks faster.
    """

    kind = "representation"

    def __init__(
        self,
        *,
        run_dir: str = "outputs/run",
        encoder: SemanticConfig | None = None,
        estimator: EstimatorConfig | None = None,
        warm_start: WarmStartConfig | None = None,
        optimiser: OptimiserConfig | None = None,
        ema_decay: float = 0.9999,
        seed: int = 0,
        compiled: bool = False,
    ) -> None:
        super().__init__(run_dir=run_dir, seed=seed, compiled=compiled)
        self.encoder_config = encoder or SemanticConfig()
        self.estimator_config = estimator or EstimatorConfig()
        self.warm_start = warm_start or WarmStartConfig()
        self.optimiser_config = optimiser or OptimiserConfig(lr=2.5e-5)
        self.ema_decay = ema_decay
        self.learned: Learned
        self.parent: Component

    def setup(self, stage: str) -> None:
        """Build the networks for the sizes of the earlier stages and load the frozen ones."""
        if hasattr(self, "learned"):
            return
        data = self.datamodule
        denoiser, self.parent = load_denoiser(self.run_dir / "denoiser")
        self._check_parents(data)
        shape = tuple(data.store.stats().mean.shape)
        with torch.random.fork_rng(), buildable("encoder and estimator must fit the scans and each other"):
            torch.manual_seed(self.seed)
            encoder = SemanticEncoder(self.encoder_config, size=data.spec.size)
            estimator = GradientEstimator(
                self.estimator_config,
                unet=denoiser.model.unet.config,
                code_size=self.encoder_config.code_size,
                latent_shape=(shape[1], shape[2], shape[3]),
            )
            # where the estimator lays the code out as a latent, the warm start trains that very layer
            self.own_regressor = (
                zeroed(nn.Linear(self.encoder_config.code_size, math.prod(shape)))
                if self.warm_start.active and estimator.place is None
                else None
            )
        self.normaliser = denoiser.normaliser
        self.learned = Learned(encoder, estimator)
        if self.warm_start.active and self.warm_start.components:
            self._start_at_components(data.datasets["train"].mean)
        self.ema = ExponentialAverage(self.learned, decay=self.ema_decay)
        self.frozen = denoiser.model.requires_grad_(False)
        self.schedule = denoiser.model.schedule
        self.latent_shape = shape[1:]

    def _start_at_components(self, latents: Tensor) -> None:
        assert self.regressor is not None
        generator = torch.Generator().manual_seed(self.seed)
        start_at_components(self.regressor, self.normaliser(spread_scans(latents)), generator=generator)

    def _check_parents(self, data: Any) -> None:
        autoencoder = component_sha256(self.run_dir / "autoencoder")
        if self.parent.parents["autoencoder"] != autoencoder:
            raise CheckpointError(
                f"{self.run_dir / 'denoiser'} was trained on latents of autoencoder "
                f"{self.parent.parents['autoencoder'][:12]}, but {self.run_dir / 'autoencoder'} is "
                f"{autoencoder[:12]}. Train the denoiser again, or bring its autoencoder back."
            )
        if self.parent.split != data.split_hash:
            raise CheckpointError(
                f"{self.run_dir / 'denoiser'} was trained on split {str(self.parent.split)[:12]}, but "
                f"{data.cohort} has split {data.split_hash[:12]}. Use one split for all stages."
            )

    def diffusion(self, learned: Learned) -> GuidedDiffusion:
        """The frozen UNet guided by the given networks."""
        return GuidedDiffusion(self.frozen, learned.estimator)

    def configure_optimizers(self) -> Any:
        """Adam over encoder, estimator and the regression of the warm start."""
        regressor = list(self.regressor.parameters()) if self.regressor is not None else []
        known = {id(parameter) for parameter in regressor}
        others = [parameter for parameter in self.learned.parameters() if id(parameter) not in known]
        groups, config = [others], self.optimiser_config
        if regressor:
            groups.append(regressor)
        warm = round(self.total_steps * self.warm_start.epochs / max(1, self.trainer.max_epochs or 1))
        phases = [Phase(self.total_steps - warm, (config.lr, config.lr))]
        if warm:
            phases.insert(0, Phase(warm, (self.warm_start.lr, self.warm_start.regressor_lr)))
        optimiser, schedule = make_optimiser(config, groups, phases=phases)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def optimizer_step(
        self, epoch: int, batch_index: int, optimizer: Optimizer | Any, closure: Any = None
    ) -> None:
        """One optimiser step, then one step of the average."""
        super().optimizer_step(epoch, batch_index, optimizer, closure)
        self.ema.update(self.learned)

    @property
    def regressor(self) -> nn.Linear | None:
        """The linear layer of the regression."""
        return self.learned.estimator.place if self.own_regressor is None else self.own_regressor

    def regression_loss(self, y: Tensor, z0: Tensor) -> Tensor:
        """Mean squared error of the latents regressed from the codes; notes what is left at each place."""
        assert self.regressor is not None
        error: Tensor = (self.regressor(y).float() - z0.flatten(1)).square()
        unexplained = self.learned.estimator.unexplained
        if unexplained is not None:
            measured = mean_over_processes(error.detach().mean(0))
            unexplained.lerp_(measured.reshape(unexplained.shape), UNEXPLAINED_RATE)
        return error.mean()

    def diffusion_loss(self, learned: Learned, z0: Tensor, t: Tensor, noise: Tensor, y: Tensor) -> Tensor:
        """Weighted mean of the squared error of the guided prediction."""
        model = self.diffusion(learned)
        z = add_noise(z0, noise, self.schedule.signal(t, z0.ndim))
        error: Tensor = model(z, t, y) - model.prediction.target(z0, noise, t)
        return (model.prediction.weight(t) * error.square().flatten(1).mean(1)).mean()

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> Tensor:
        """One batch {"volume", "mean"}: regression during the warm start, then the diffusion loss."""
        z0 = self.normaliser(batch["mean"])
        y = self.learned.encoder(batch["volume"])
        warm = self.current_epoch < self.warm_start.epochs
        loss = torch.zeros((), device=z0.device)
        if warm or self.warm_start.weight > 0:
            regression = self.regression_loss(y, z0)
            self.log(
                "train/regression", regression.detach(), batch_size=len(z0), prog_bar=True, sync_dist=True
            )
            loss = loss + regression * (1.0 if warm else self.warm_start.weight)
        if not warm:
            t = self.draw_levels(len(z0), steps=len(self.schedule))
            diffusion = self.diffusion_loss(self.learned, z0, t, self.noise_like(z0), y)
            self.log("train/loss", diffusion.detach(), batch_size=len(z0), prog_bar=True, sync_dist=True)
            loss = loss + diffusion
        return loss

    def held_out(self, batch: dict[str, Tensor], batch_index: int) -> dict[str, Tensor]:
        """Is the code used? The error with the scan's own code, another's, and none, at the same noise."""
        z0 = self.normaliser(batch["mean"])
        learned = self.ema.module
        model = self.diffusion(learned)
        noise = self.fixed_noise(z0, index=batch["index"])
        t = self.fixed_levels(batch["index"], steps=len(self.schedule))
        y = learned.encoder(batch["volume"])
        z = add_noise(z0, noise, self.schedule.signal(t, z0.ndim))
        target = model.prediction.target(z0, noise, t)
        output, (gradient, other) = model.parts(z, t, [y, y.roll(1, 0)])
        guide = model.prediction.guide
        return {
            "right": (guide(output, gradient, t) - target).square().mean(),
            "shuffled": (guide(output, other, t) - target).square().mean(),
            "none": (output - target).square().mean(),
        }

    def networks(self) -> list[nn.Module]:
        """What `compiled` compiles."""
        return [self.learned.encoder, self.learned.estimator.up, self.frozen.unet.trunk, self.frozen.unet.up]

    def export(self, folder: Path) -> str:
        """Write the averaged encoder and estimator."""
        data = self.datamodule
        learned = self.ema.module
        return save_component(
            folder,
            kind=self.kind,
            config={
                "encoder": asdict(self.encoder_config),
                "estimator": asdict(self.estimator_config),
                "size": list(data.spec.size),
                "latent_shape": list(self.latent_shape),
            },
            tensors=learned.state_dict(),
            spec=data.spec.to_dict(),
            split=data.split_hash,
            parents={
                "autoencoder": component_sha256(self.run_dir / "autoencoder"),
                "denoiser": self.parent.sha256,
            },
        )
