# SPDX-License-Identifier: Apache-2.0
"""The optimiser of a stage and its learning rate over time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ldae.configured import check_numbers
from ldae.nets.blocks import UndecayedParameter

FUSED_ON = ("cpu", "cuda")


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

    def __post_init__(self) -> None:
        """Stop on numbers that Adam or a schedule cannot have."""
        least = dict.fromkeys(("lr", "weight_decay", "warmup", "betas"), 0)
        check_numbers(self, "optimiser", least=least, most={"warmup": 1}, below={"betas": 1})


@dataclass(frozen=True)
class Phase:
    """A part of the training with a learning-rate schedule of its own.

    Attributes:
        steps: Optimiser steps.
        lrs: Highest learning rate of each parameter group.
    """

    steps: int
    lrs: tuple[float, ...]


def learning_rate(config: OptimiserConfig, step: int, *, phases: Sequence[Phase], group: int = 0) -> float:
    """The learning rate of a parameter group at an optimiser step; each phase starts the schedule again."""
    index = 0
    while index < len(phases) - 1 and step >= phases[index].steps:
        step -= phases[index].steps
        index += 1
    phase = phases[index]
    if config.schedule == "constant":
        return phase.lrs[group]
    rise = max(1, round(config.warmup * phase.steps))
    if step < rise:
        return phase.lrs[group] * (step + 1) / rise
    progress = min(1.0, (step - rise) / max(1, phase.steps - rise))
    return phase.lrs[group] * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def make_optimiser(
    config: OptimiserConfig,
    groups: Sequence[list[Parameter]],
    *,
    phases: Sequence[Phase],
) -> tuple[Optimizer, LambdaLR]:
    """Adam over groups of parameters, with their learning rates over the phases of the training.

    What is an `UndecayedParameter` makes a further group of the optimiser, without weight decay. One kernel
    takes the step on the devices that are known to have it, also where a run goes on that began without.
    """
    parts = [
        (number, {"params": part, "lr": 1.0, "weight_decay": decay})
        for number, group in enumerate(groups)
        for part, decay in _by_decay(group, config.weight_decay)
    ]
    fused = all(one.device.type in FUSED_ON for part in groups for one in part)
    optimiser = AdamW([part for _, part in parts], betas=config.betas, fused=fused)
    optimiser.register_load_state_dict_post_hook(partial(_go_on, fused=fused))
    rates: list[Callable[[int], float]] = [
        partial(_rate, config=config, phases=phases, group=number) for number, _ in parts
    ]
    return optimiser, LambdaLR(optimiser, rates)


def _go_on(optimiser: Optimizer, *, fused: bool) -> None:
    """Make a loaded state one that this machine's kernel can go on with.

    The fused kernel walks through memory and mixes up the places of averages that lie otherwise than their
    weights, such as those of a machine that does not store its convolutions channels-last. Gradients lie as
    their weights do: torch.autograd sees to that.
    """
    for group in optimiser.param_groups:
        group["fused"] = fused
        for weight in group["params"]:
            state = optimiser.state.get(weight, {})
            state.update({name: _laid_out(value, weight) for name, value in state.items()})
            if fused and "step" in state:
                state["step"] = state["step"].to(weight.device, torch.float32)


def _laid_out(value: Tensor, weight: Parameter) -> Tensor:
    if value.shape != weight.shape:
        return value
    strides = zip(weight.shape, value.stride(), weight.stride(), strict=True)
    if all(own == other for size, own, other in strides if size > 1):
        return value
    return torch.empty_like(weight, dtype=value.dtype).copy_(value)


def _by_decay(group: list[Parameter], decay: float) -> list[tuple[list[Parameter], float]]:
    spared: list[Parameter] = [one for one in group if isinstance(one, UndecayedParameter)]
    others = [one for one in group if not isinstance(one, UndecayedParameter)]
    return [(others, decay), (spared, 0.0)] if spared else [(others, decay)]


def _rate(step: int, *, config: OptimiserConfig, phases: Sequence[Phase], group: int) -> float:
    return learning_rate(config, step, phases=phases, group=group)
