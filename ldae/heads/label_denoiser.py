# SPDX-License-Identifier: Apache-2.0
"""The noise predictors of LaDiNE's members: labels, prior, level and code to the expected label."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ldae.heads.label_diffusion import alpha_bar_table, one_hot_posterior
from ldae.heads.stacked import StackedLinear

ParametrisationName = Literal["y0", "eps"]
PARAMETRISATIONS: tuple[ParametrisationName, ...] = ("y0", "eps")
LAYERS = 3
FREQUENCIES = 32


class Condition(NamedTuple):
    """What a scan tells its predictors, computed once.

    Attributes:
        prior: Prior class probabilities z_k [K, B, C].
        entered: Their share of the first layer [K, B, h].
        feature: Feature of the code, multiplied into the first layer's output [K, B, h].
    """

    prior: Tensor
    entered: Tensor
    feature: Tensor

    def rows(self, start: int, stop: int) -> Condition:
        """The same for scans start..stop-1."""
        return Condition(*(part[:, start:stop] for part in self))

    def member(self, index: int) -> Condition:
        """The same for one member."""
        return Condition(*(part[index : index + 1] for part in self))


def prior_mean(prior: Tensor) -> Tensor:
    """The mean m towards which labels drift: the member's probabilities z_k, as released with LaDiNE."""
    return prior


class LabelDenoiser(nn.Module):
    """K noise predictors: y_t and z_k through three layers modulated by t, the first times the code's
    feature.

    "eps" predicts the noise. "y0" predicts class probabilities, softmax(log z_k + what y_t says of a one-hot
    label + network), and starts from the exact posterior under the prior z_k.

    Args:
        members: K.
        classes: C.
        code: Width D of the code.
        hidden: Width h of the layers.
        parametrisation: What the network stands for.
    """

    def __init__(
        self, members: int, *, classes: int, code: int, hidden: int, parametrisation: ParametrisationName
    ) -> None:
        super().__init__()
        self.parametrisation = parametrisation
        self.encode = StackedLinear(members, code, hidden)
        self.enter_prior = StackedLinear(members, classes, hidden)
        self.enter_label = StackedLinear(members, classes, hidden)
        self.layers = nn.ModuleList(StackedLinear(members, hidden, hidden) for _ in range(LAYERS - 1))
        self.time = StackedLinear(members, 2 * FREQUENCIES, hidden)
        self.film = StackedLinear(members, hidden, 2 * LAYERS * hidden)
        self.leave = StackedLinear(members, hidden, classes, zero=True)

    def condition(self, prior: Tensor, code: Tensor) -> Condition:
        """What stays the same along t, from z_k [K, B, C] and standardised codes [1, B, D]."""
        feature = self.encode(code.expand(len(prior), -1, -1))
        return Condition(prior, self.enter_prior(prior), functional.layer_norm(feature, feature.shape[-1:]))

    def forward(self, label: Tensor, condition: Condition, *, level: Tensor) -> Tensor:
        """Answers [K, B, M, C] to labels y_t [K, B, M, C] at levels [B], or [1] for all."""
        film = self._film(level, like=label)
        h = _apply(self.enter_label, label) + condition.entered[:, :, None]
        h = _modulated(h, film[0]) * condition.feature[:, :, None]
        for layer, scale_shift in zip(self.layers, film[1:], strict=True):
            h = _modulated(_apply(layer, h), scale_shift)
        return _apply(self.leave, h)

    def expected_label(self, label: Tensor, condition: Condition, *, level: int) -> Tensor:
        """E[y_0 | y_t] [K, B, M, C] at one level."""
        answer = self(label, condition, level=torch.tensor([level]))
        alpha_bar = alpha_bar_table()[level]
        if self.parametrisation == "y0":
            return self.logits(answer, label, condition, alpha_bar=alpha_bar).softmax(-1)
        mean = prior_mean(condition.prior)[:, :, None]
        expected: Tensor = mean + (label - mean - (1 - alpha_bar).sqrt() * answer) / alpha_bar.sqrt()
        return expected

    def logits(self, answer: Tensor, label: Tensor, condition: Condition, *, alpha_bar: Tensor) -> Tensor:
        """Class logits [K, B, M, C] of the "y0" form, at signal variances that broadcast."""
        mean = prior_mean(condition.prior)[:, :, None]
        told = one_hot_posterior(label, mean, alpha_bar=alpha_bar)
        logits: Tensor = condition.prior.log()[:, :, None] + told + answer
        return logits

    def _film(self, level: Tensor, *, like: Tensor) -> list[Tensor]:
        """Scales and shifts of each layer [K, B or 1, 1, 2 h]."""
        rates = torch.exp(torch.arange(FREQUENCIES) * (-math.log(10000.0) / FREQUENCIES))
        angles = level[:, None] * rates
        waves = torch.cat([angles.sin(), angles.cos()], 1).to(like.dtype)
        h = functional.silu(self.time(waves.expand(len(like), -1, -1)))
        return list(self.film(h)[:, :, None].chunk(LAYERS, -1))


def _apply(layer: nn.Module, x: Tensor) -> Tensor:
    """A stacked layer on [K, B, M, inputs]."""
    members, scans, samples, _ = x.shape
    out: Tensor = layer(x.reshape(members, scans * samples, -1))
    return out.reshape(members, scans, samples, -1)


def _modulated(h: Tensor, scale_shift: Tensor) -> Tensor:
    scale, shift = scale_shift.chunk(2, -1)
    return functional.silu(torch.addcmul(shift, functional.layer_norm(h, h.shape[-1:]), 1 + scale))
