# SPDX-License-Identifier: Apache-2.0
"""Exponential moving average of a module's weights."""

from __future__ import annotations

from typing import Generic, TypeVar, cast

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ldae.errors import InputError

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class ExponentialAverage(nn.Module, Generic[ModuleT]):
    """Weights averaged as m_1 = w_1, m_n = decay m_{n-1} + (1 - decay) w_n.

    Call `update` once per optimiser step. Buffers, such as the running statistics of a whitening layer, are
    copied unless they are asked to be averaged.

    Args:
        module: The module in training.
        decay: Weight of the past, 0..1.
        buffers: Average buffers too: running statistics of batch normalisation that follow the weights in
            training do not suit averaged ones.

    Raises:
        InputError: The decay is no share.
    """

    def __init__(self, module: ModuleT, *, decay: float, buffers: bool = False) -> None:
        super().__init__()
        if not 0 <= decay <= 1:
            raise InputError(f"ema_decay must be from 0 to 1, got {decay}.")
        average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        self.average = AveragedModel(module, multi_avg_fn=average, use_buffers=buffers)
        self.average.requires_grad_(False).eval()

    def update(self, module: ModuleT) -> None:
        """Take in the weights of `module` after an optimiser step."""
        self.average.update_parameters(module)

    @property
    def module(self) -> ModuleT:
        """The averaged module, always in eval mode."""
        return cast(ModuleT, self.average.module)

    def train(self, mode: bool = True) -> ExponentialAverage[ModuleT]:
        """Stays in eval mode, whatever is asked."""
        return super().train(False)
