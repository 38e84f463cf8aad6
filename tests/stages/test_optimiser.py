# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor, nn

from ldae.nets.unet import UNetConfig
from ldae.stages.denoiser import DenoiserStage
from ldae.stages.optimiser import OptimiserConfig, Phase, make_optimiser

UNET = UNetConfig(base=8, multipliers=(1, 2), blocks=1, attention_levels=(1,), head_channels=8, groups=4)
CONFIG = OptimiserConfig(lr=1e-2, weight_decay=0.1)
STEPS = 5


def fresh(*, last: bool) -> nn.Conv3d:
    torch.manual_seed(0)
    conv = nn.Conv3d(4, 8, 3)
    return conv.to(memory_format=torch.channels_last_3d) if last else conv


def optimiser_of(conv: nn.Module) -> torch.optim.Optimizer:
    phases = [Phase(STEPS, (CONFIG.lr,))]
    return make_optimiser(CONFIG, [list(conv.parameters())], phases=phases)[0]


def plain_adamw(conv: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(conv.parameters(), lr=CONFIG.lr, weight_decay=0.1)


def take(conv: nn.Conv3d, optimiser: torch.optim.Optimizer, steps: range) -> None:
    """Steps as Lightning takes them, with the backward pass within."""
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(2, 4, 5, 6, 7, generator=generator)

        def closure(x: Tensor = x) -> Tensor:
            optimiser.zero_grad()
            loss = conv(x).square().mean()
            loss.backward()
            return loss

        optimiser.step(closure)  # type: ignore[arg-type]


def by_torch(steps: int) -> Tensor:
    """Weights after the same steps of torch's plain AdamW on weights that lie plainly."""
    conv = fresh(last=False)
    take(conv, plain_adamw(conv), range(steps))
    return conv.weight.detach()


@pytest.mark.parametrize("last", [True, False])
def test_steps_are_adamws_however_weights_lie(last: bool) -> None:
    conv = fresh(last=last)
    take(conv, optimiser_of(conv), range(STEPS))
    torch.testing.assert_close(conv.weight.detach(), by_torch(STEPS), rtol=1e-4, atol=1e-5)
    assert conv.weight.is_contiguous(memory_format=torch.channels_last_3d) == last


@pytest.mark.parametrize("begun_by", [optimiser_of, plain_adamw])
@pytest.mark.parametrize("last", [True, False])
def test_a_run_goes_on_from_weights_that_lay_otherwise_and_from_another_kernel(
    last: bool, begun_by: Callable[[nn.Module], torch.optim.Optimizer]
) -> None:
    first = fresh(last=not last)
    before = begun_by(first)
    take(first, before, range(2))
    second = fresh(last=last)
    second.load_state_dict(first.state_dict())
    after = optimiser_of(second)
    after.load_state_dict(before.state_dict())
    assert after.param_groups[0]["fused"]
    take(second, after, range(2, STEPS))
    torch.testing.assert_close(second.weight.detach(), by_torch(STEPS), rtol=1e-4, atol=1e-5)


class Clipped(DenoiserStage):
    """Notes the gradients before and after they are clipped."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.felt: list[tuple[Tensor, Tensor]] = []

    def configure_gradient_clipping(self, *arguments: Any, **named: Any) -> None:
        before = self.gradient()
        super().configure_gradient_clipping(*arguments, **named)
        self.felt.append((before, self.gradient()))

    def gradient(self) -> Tensor:
        return torch.cat([one.grad.flatten() for one in self.unet.parameters() if one.grad is not None])


def scaled() -> MixedPrecision:
    """Half precision with a scale for the gradients, which Lightning offers on GPUs only."""
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=64.0))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("algorithm", ["norm", "value", None])
def test_gradients_are_clipped_in_every_precision(
    tiny_run: Path, train: Callable[..., Any], precision: str, algorithm: str | None
) -> None:
    stage = Clipped(run_dir=str(tiny_run), unet=UNET)
    clip = {"gradient_clip_val": 1e-3, "gradient_clip_algorithm": algorithm}
    chosen = {"plugins": scaled()} if precision == "16-mixed" else {"precision": precision}
    train(stage, limit_train_batches=2, **chosen, **clip)
    assert len(stage.felt) == 2
    for before, after in stage.felt:
        if algorithm == "value":
            scale = 64 if precision == "16-mixed" else 1
            torch.testing.assert_close(after, (before / scale).clamp(-1e-3, 1e-3))
            assert (after.abs() == 1e-3).any()
        else:
            torch.testing.assert_close(after, before * 1e-3 / before.norm(), rtol=1e-3, atol=1e-9)
            assert float(after.norm()) == pytest.approx(1e-3, rel=1e-3)


def test_without_a_limit_nothing_is_clipped(tiny_run: Path, train: Callable[..., Any]) -> None:
    stage = Clipped(run_dir=str(tiny_run), unet=UNET)
    train(stage, limit_train_batches=2)
    for before, after in stage.felt:
        assert torch.equal(before, after)
