# SPDX-License-Identifier: Apache-2.0
"""What the heads with a diffusion model of their own training data share."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import torch
from numpy.typing import NDArray
from torch import Tensor

from ldae.heads.checks import check_count
from ldae.heads.class_diffusion import Diffusion, build_diffusion
from ldae.heads.classifier import TrainingSet
from ldae.heads.diffusion_training import DiffusionTraining, Loss, denoising_loss, train_diffusion
from ldae.heads.shaped import ShapedClassifier, frozen
from ldae.heads.stacked import load_arrays, seeded, subset, to_arrays

DIFFUSION = "diffusion."


class FittedDiffusion(NamedTuple):
    """One model of a part of the scans, one of all.

    Attributes:
        judged: Model that has not seen the first fold.
        final: Model of all scans, its network trained for as many steps as served the other best.
        steps: That number.
    """

    judged: Diffusion
    final: Diffusion
    steps: int


class DiffusionBased(ShapedClassifier):
    """A classifier of codes or latents with a class-conditional diffusion of them."""

    width: int
    channels: int
    layers: int
    diffusion_steps: int
    batch_size: int
    learning_rate: float
    diffusion_: Diffusion
    steps_: int

    def _check_options(self) -> None:
        check_count("width", self.width, least=1)
        check_count("channels", self.channels, least=1)
        check_count("layers", self.layers, least=2)
        check_count("diffusion_steps", self.diffusion_steps, least=0)
        check_count("batch_size", self.batch_size, least=1)
        super()._check_options()

    def _fit_diffusion(self, values: Tensor, training: TrainingSet) -> FittedDiffusion:
        labels = torch.from_numpy(training.encoded) + 1
        seen = torch.from_numpy(training.folds[0][0])
        with seeded(self.seed_):
            judged, final = self._diffusion(), self._diffusion()
            final.network.load_state_dict(judged.network.state_dict())
            steps = train_diffusion(
                judged,
                values[seen],
                labels[seen],
                training=self._training(self.diffusion_steps),
                held_out=self._held_out_loss(values, training),
            )
            train_diffusion(final, values, labels, training=self._training(steps))
        return FittedDiffusion(frozen(judged), frozen(final), steps)

    def _held_out_loss(self, values: Tensor, training: TrainingSet) -> Loss:
        """By what the steps are chosen: how well noise is undone on the first fold."""
        held_out = training.folds[0][1]
        return denoising_loss(values[held_out], torch.from_numpy(training.encoded[held_out]) + 1)

    def _training(self, steps: int) -> DiffusionTraining:
        return DiffusionTraining(steps, self.batch_size, self.learning_rate)

    def _diffusion(self) -> Diffusion:
        width = self.width if self.latent_shape_ is None else self.channels
        return build_diffusion(self._shape, classes=len(self.classes_), width=width, layers=self.layers)

    def _diffusion_arrays(self) -> dict[str, NDArray[Any]]:
        weights = to_arrays(self.diffusion_)
        return self._own_arrays() | {f"{DIFFUSION}{name}": array for name, array in weights.items()}

    def _config(self) -> dict[str, Any]:
        return super()._config() | {"diffusion_steps": self.steps_}

    @classmethod
    def _rebuilt(cls, config: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Self:
        """A restored head with its diffusion."""
        head = cls._reshaped(config, arrays)
        head.steps_ = int(config["diffusion_steps"])
        kept = subset(arrays, DIFFUSION)
        head.diffusion_ = frozen(load_arrays(head._diffusion(), kept, head=cls.__name__))
        return head
