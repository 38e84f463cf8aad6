# SPDX-License-Identifier: Apache-2.0
"""Stage 2: the diffusion model of the latents (DDPM, arXiv 2006.11239)."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn
from torch.optim import Optimizer

from ldae.data.artefact import component_sha256, save_component
from ldae.data.latents import LatentStats
from ldae.diffusion.model import LatentDenoiser
from ldae.diffusion.prediction import PredictionName, add_noise
from ldae.diffusion.schedule import Schedule, ScheduleConfig
from ldae.errors import InputError
from ldae.nets.normaliser import LatentNormaliser
from ldae.nets.unet import UNet, UNetConfig
from ldae.stages.ema import ExponentialAverage
from ldae.stages.optimiser import OptimiserConfig, Phase, make_optimiser
from ldae.stages.stage import Stage

StatisticsName = Literal["voxel", "channel"]
PriorName = Literal["place", "none"]
LatentName = Literal["mean", "sample"]


def make_normaliser(stats: LatentStats, statistics: StatisticsName) -> LatentNormaliser:
    """Statistics per place (the mean brain is removed) or per channel (as published)."""
    if statistics == "voxel":
        return LatentNormaliser(stats.mean, stats.std)
    return LatentNormaliser(stats.channel_mean.reshape(-1, 1, 1, 1), stats.channel_std)


class DenoiserStage(Stage):
    """Trains the latent UNet; exports its average with schedule and latent statistics.

    Args:
        run_dir: Folder of the run.
        unet: Size of the UNet.
        schedule: Noise schedule.
        prediction: What the UNet predicts: "v", or "eps" as published.
        statistics: Mean that is taken off the latents: "voxel" (per place) or "channel" (as published).
        prior: "place" lets the network say what a Gaussian of each place's variance cannot; "none" as
            published.
        latent: Train on posterior means, or on samples of the posterior.
        optimiser: Adam and its schedule.
        ema_decay: Decay of the weight average.
        seed: Seed of every random draw.
        compiled: Let torch.compile make the networks faster.
    """

    kind = "denoiser"

    def __init__(
        self,
        *,
        run_dir: str = "outputs/run",
        unet: UNetConfig | None = None,
        schedule: ScheduleConfig | None = None,
        prediction: PredictionName = "v",
        statistics: StatisticsName = "voxel",
        prior: PriorName = "place",
        latent: LatentName = "mean",
        optimiser: OptimiserConfig | None = None,
        ema_decay: float = 0.9999,
        seed: int = 0,
        compiled: bool = False,
    ) -> None:
        super().__init__(run_dir=run_dir, seed=seed, compiled=compiled)
        self.unet = UNet(unet or UNetConfig())
        self.ema = ExponentialAverage(self.unet, decay=ema_decay)
        self.schedule = Schedule(schedule)
        self.prediction: PredictionName = prediction
        self.prior = prior
        if prior == "place" and (prediction != "v" or statistics != "voxel"):
            raise InputError(
                f"prior place needs prediction v and statistics voxel, got {prediction} and {statistics}. "
                "Set prior: none."
            )
        self.statistics: StatisticsName = statistics
        self.latent = latent
        self.optimiser_config = optimiser or OptimiserConfig(lr=2.5e-5)
        self.normaliser: LatentNormaliser
        self.place_variance: Tensor | None
        self.register_buffer("place_variance", None, persistent=False)

    def setup(self, stage: str) -> None:
        """Take the latent statistics from the store."""
        stats = self.datamodule.statistics()
        self.normaliser = make_normaliser(stats, self.statistics).to(self.device)
        if self.prior == "place":
            self.place_variance = (stats.place_std / self.normaliser.std).square()

    def denoiser(self, unet: UNet) -> LatentDenoiser:
        """The UNet over the prior."""
        return LatentDenoiser(
            unet, schedule=self.schedule, prediction=self.prediction, prior=self.place_variance
        )

    def configure_optimizers(self) -> Any:
        """Adam over the UNet."""
        config = self.optimiser_config
        phases = [Phase(self.total_steps, (config.lr,))]
        optimiser, schedule = make_optimiser(config, [list(self.unet.parameters())], phases=phases)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def optimizer_step(
        self, epoch: int, batch_index: int, optimizer: Optimizer | Any, closure: Any = None
    ) -> None:
        """One optimiser step, then one step of the average."""
        super().optimizer_step(epoch, batch_index, optimizer, closure)
        self.ema.update(self.unet)

    def clean_latent(self, batch: dict[str, Tensor]) -> Tensor:
        """Normalised latents of a batch, [B, C, h, w, d]."""
        latent = batch["mean"]
        if self.latent == "sample":
            latent = latent + batch["sigma"] * self.noise_like(latent)
        normalised: Tensor = self.normaliser(latent)
        return normalised

    def loss(self, model: LatentDenoiser, z0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Mean squared error of the prediction, [B]."""
        z = add_noise(z0, noise, self.schedule.signal(t, z0.ndim))
        error: Tensor = model(z, t) - model.prediction.target(z0, noise, t)
        return error.square().flatten(1).mean(1)

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> Tensor:
        """One batch {"mean", "sigma": [B, C, h, w, d]} at uniform levels."""
        z0 = self.clean_latent(batch)
        t = self.draw_levels(len(z0), steps=len(self.schedule))
        loss = self.loss(self.denoiser(self.unet), z0, t, self.noise_like(z0)).mean()
        self.log("train/loss", loss.detach(), batch_size=len(z0), prog_bar=True, sync_dist=True)
        return loss

    def held_out(self, batch: dict[str, Tensor], batch_index: int) -> dict[str, Tensor]:
        """The averaged network's loss at levels spread evenly over the scans, with fixed noise."""
        z0 = self.normaliser(batch["mean"])
        noise = self.fixed_noise(z0, index=batch["index"])
        t = self.fixed_levels(batch["index"], steps=len(self.schedule))
        return {"loss": self.loss(self.denoiser(self.ema.module), z0, t, noise).mean()}

    def networks(self) -> list[nn.Module]:
        """What `compiled` compiles."""
        return [self.unet]

    def export(self, folder: Path) -> str:
        """Write the averaged UNet with the latent statistics, schedule and prediction."""
        data = self.datamodule
        average = self.ema.module
        tensors = {f"unet.{name}": value for name, value in average.state_dict().items()}
        tensors |= {f"normaliser.{name}": value for name, value in self.normaliser.state_dict().items()}
        if self.place_variance is not None:
            tensors["prior"] = self.place_variance
        return save_component(
            folder,
            kind=self.kind,
            config={
                "unet": asdict(average.config),
                "schedule": asdict(self.schedule.config),
                "prediction": self.prediction,
                "statistics": self.statistics,
            },
            tensors=tensors,
            spec=data.spec.to_dict(),
            split=data.split_hash,
            parents={"autoencoder": component_sha256(self.run_dir / "autoencoder")},
        )
