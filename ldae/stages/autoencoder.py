# SPDX-License-Identifier: Apache-2.0
"""Stage 1: the autoencoder that compresses a scan (LDM, arXiv 2112.10752, appendix G)."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ldae.configured import check_numbers
from ldae.data.artefact import save_component
from ldae.errors import InputError
from ldae.nets.autoencoder import Autoencoder, AutoencoderConfig, Voxels
from ldae.nets.perceptual import PerceptualConfig, SlicePerceptualLoss
from ldae.stages.ema import ExponentialAverage
from ldae.stages.optimiser import OptimiserConfig, Phase, make_optimiser
from ldae.stages.stage import Stage


@dataclass(frozen=True)
class AutoencoderLossConfig:
    """Weights of stage 1's loss; a weight of 0 builds no network.

    Attributes:
        kl: Of the Kullback-Leibler divergence of the posterior, summed over the latent, mean over scans.
        perceptual: Of the perceptual distance.
        adversarial: Of the patch discriminator's verdict (LSGAN, arXiv 1611.04076).
        adversarial_start: First epoch with the discriminator.
        discriminator_channels: Channels of the discriminator's first layer.
        discriminator_layers: Strided layers of the discriminator.
    """

    kl: float = 1e-7
    perceptual: float = 0.001
    adversarial: float = 0.025
    adversarial_start: int = 5
    discriminator_channels: int = 64
    discriminator_layers: int = 3

    def __post_init__(self) -> None:
        """Stop on weights below zero and on sizes of which no discriminator can be built."""
        weights = ("kl", "perceptual", "adversarial", "adversarial_start")
        sizes = ("discriminator_channels", "discriminator_layers")
        check_numbers(self, "loss", least=dict.fromkeys(weights, 0) | dict.fromkeys(sizes, 1))


def kl_divergence(mean: Tensor, sigma: Tensor) -> Tensor:
    """0.5 sum(mu^2 + s^2 - log s^2 - 1) over the latent, mean over the batch; inputs [B, C, h, w, d]."""
    terms = mean.square() + sigma.square() - sigma.square().clamp_min(1e-12).log() - 1
    return 0.5 * terms.flatten(1).sum(1).mean()


class AutoencoderStage(Stage):
    """Trains the autoencoder with L1, KL, perceptual and, after a warm-up, adversarial loss.

    Exports its average.

    Args:
        run_dir: Folder of the run.
        autoencoder: Size of the network.
        loss: Weights of the loss.
        perceptual: The perceptual network and where its weights lie.
        optimiser: Of the autoencoder.
        discriminator_optimiser: Of the discriminator.
        clip: Largest norm of the gradients.
        accumulate: Batches to an optimiser step.
        ema_decay: Decay of the weight average.
        seed: Seed of every random draw.
        compiled: Let torch.compile make the networks faster.
    """

    kind = "autoencoder"

    def __init__(
        self,
        *,
        run_dir: str = "outputs/run",
        autoencoder: AutoencoderConfig | None = None,
        loss: AutoencoderLossConfig | None = None,
        perceptual: PerceptualConfig | None = None,
        optimiser: OptimiserConfig | None = None,
        discriminator_optimiser: OptimiserConfig | None = None,
        clip: float = 1.0,
        accumulate: int = 1,
        ema_decay: float = 0.999,
        seed: int = 0,
        compiled: bool = False,
    ) -> None:
        super().__init__(run_dir=run_dir, seed=seed, compiled=compiled)
        if accumulate < 1:
            raise InputError(f"accumulate must be 1 batch or more, got {accumulate}.")
        self.automatic_optimization = False
        self.weights = loss or AutoencoderLossConfig()
        self.optimiser_config = optimiser or OptimiserConfig(lr=5e-5)
        self.discriminator_config = discriminator_optimiser or OptimiserConfig(lr=1e-4)
        self.clip = clip
        self.accumulate = accumulate
        self.autoencoder = Autoencoder(autoencoder or AutoencoderConfig())
        self.ema = ExponentialAverage(self.autoencoder, decay=ema_decay)
        self.discriminator = self._make_discriminator()
        self.frozen = nn.ModuleDict()
        if self.weights.perceptual > 0:
            self.frozen["perceptual"] = SlicePerceptualLoss(perceptual or PerceptualConfig())

    def _make_discriminator(self) -> nn.Module | None:
        if self.weights.adversarial == 0:
            return None
        # monai takes five seconds to import
        from monai.networks.nets.patchgan_discriminator import PatchDiscriminator

        net: nn.Module = PatchDiscriminator(
            spatial_dims=3,
            channels=self.weights.discriminator_channels,
            in_channels=1,
            num_layers_d=self.weights.discriminator_layers,
        )
        return net

    def prepare_data(self) -> None:
        """Stop before scans are read that the autoencoder could not take.

        Raises:
            InputError: A side cannot be halved as often as the levels ask for.
        """
        if self.datamodule is None:
            return
        size, factor = self.datamodule.spec.size, self.autoencoder.config.factor
        if any(side % factor for side in size):
            raise InputError(
                f"data.init_args.size must be multiples of {factor}, by which the autoencoder makes latents "
                f"smaller, got {list(size)}. Change it, or model.init_args.autoencoder."
            )

    def configure_optimizers(self) -> Any:
        """One Adam for the autoencoder, one for the discriminator; none where latents are the voxels."""
        if self.autoencoder.config.identity:
            return None
        total = self.total_steps
        trained: list[tuple[OptimiserConfig, nn.Module]] = [(self.optimiser_config, self.autoencoder)]
        if self.discriminator is not None:
            trained.append((self.discriminator_config, self.discriminator))
        pairs = [
            make_optimiser(config, [list(module.parameters())], phases=[Phase(total, (config.lr,))])
            for config, module in trained
        ]
        return [{"optimizer": optimiser, "lr_scheduler": schedule} for optimiser, schedule in pairs]

    @property
    def total_steps(self) -> int:
        """Steps of the autoencoder's optimiser; Lightning knows nothing of the batches to each."""
        batches = super().total_steps
        epoch = math.ceil(self.trainer.num_training_batches / self.accumulate)
        # where trainer.max_steps is less than all batches, it counts steps
        return max(1, min(batches, epoch * (self.trainer.max_epochs or 0)))

    @property
    def adversarial(self) -> bool:
        """Whether the discriminator takes part in the current epoch."""
        return self.discriminator is not None and self.current_epoch >= self.weights.adversarial_start

    def _verdict(self, x: Tensor) -> Tensor:
        assert self.discriminator is not None
        verdict: Tensor = self.discriminator(x)[-1]
        return verdict.float()

    def generator_losses(self, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Weighted terms of the autoencoder's loss on scans [B, 1, X, Y, Z], and the reconstruction."""
        mean, sigma = self.autoencoder.encode(x)
        reconstruction = self.autoencoder.decode(mean + sigma * self.noise_like(sigma)).float()
        terms = {
            "l1": functional.l1_loss(reconstruction, x),
            "kl": self.weights.kl * kl_divergence(mean.float(), sigma.float()),
        }
        if "perceptual" in self.frozen:
            terms["perceptual"] = self.weights.perceptual * self.frozen["perceptual"](reconstruction, x)
        if self.adversarial:
            terms["adversarial"] = (
                self.weights.adversarial * (self._verdict(reconstruction) - 1).square().mean()
            )
        return terms, reconstruction

    def discriminator_loss(self, x: Tensor, reconstruction: Tensor) -> Tensor:
        """0.5 (E D(fake)^2 + E (D(real) - 1)^2), weighted; no gradient reaches the autoencoder."""
        fake = self._verdict(reconstruction.detach()).square().mean()
        real = (self._verdict(x) - 1).square().mean()
        return self.weights.adversarial * 0.5 * (fake + real)

    def _step(self, optimiser: Any, parameters: nn.Module, schedule: Any) -> None:
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None:
            scaler.unscale_(optimiser.optimizer)
        nn.utils.clip_grad_norm_(parameters.parameters(), self.clip)
        optimiser.step()
        optimiser.zero_grad()
        schedule.step()

    def _optimisers(self) -> tuple[list[Any], list[Any]]:
        optimisers, schedules = self.optimizers(), self.lr_schedulers()
        return (
            optimisers if isinstance(optimisers, list) else [optimisers],
            schedules if isinstance(schedules, list) else [schedules],
        )

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> Tensor:
        """One batch {"volume": [B, 1, X, Y, Z]}: the autoencoder, then the discriminator; their loss."""
        x = batch["volume"]
        optimisers, schedules = self._optimisers()
        full = (batch_index + 1) % self.accumulate == 0 or self.trainer.is_last_batch
        size = self.group_size(batch_index, accumulate=self.accumulate)

        self.toggle_optimizer(optimisers[0])
        terms, reconstruction = self.generator_losses(x)
        total = torch.stack(list(terms.values())).sum()
        self.manual_backward(total / size)
        if full:
            self._step(optimisers[0], self.autoencoder, schedules[0])
            self.ema.update(self.autoencoder)
        self.untoggle_optimizer(optimisers[0])
        values = {f"train/{name}": value.detach() for name, value in terms.items()}
        self.log_dict(values, batch_size=len(x), sync_dist=True)

        if self.adversarial:
            assert self.discriminator is not None
            self.toggle_optimizer(optimisers[1])
            loss = self.discriminator_loss(x, reconstruction)
            self.manual_backward(loss / size)
            if full:
                self._step(optimisers[1], self.discriminator, schedules[1])
            self.untoggle_optimizer(optimisers[1])
            self.log("train/discriminator", loss.detach(), batch_size=len(x), sync_dist=True)
            total = total + loss
        return total.detach()

    def held_out(self, batch: dict[str, Tensor], batch_index: int) -> dict[str, Tensor]:
        """L1 and PSNR of the averaged autoencoder's reconstruction from the posterior mean."""
        x = batch["volume"]
        average = self.ema.module
        reconstruction = average.decode(average.encode(x)[0]).float().clamp(0, 1)
        psnr = -10 * (reconstruction - x).square().flatten(1).mean(1).log10()
        return {"l1": functional.l1_loss(reconstruction, x), "psnr": psnr.mean()}

    def networks(self) -> list[nn.Module]:
        """What `compiled` compiles."""
        net = self.autoencoder.net
        return [] if isinstance(net, Voxels) else [net.encoder, net.decoder]

    def export(self, folder: Path) -> str:
        """Write the averaged autoencoder."""
        data = self.datamodule
        return save_component(
            folder,
            kind=self.kind,
            config=asdict(self.ema.module.config),
            tensors=self.ema.module.state_dict(),
            spec=data.spec.to_dict(),
            split=data.split_hash,
        )
