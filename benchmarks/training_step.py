# SPDX-License-Identifier: Apache-2.0
"""How long an optimiser step of each stage takes, against the plain float32 form of the same networks.

    python benchmarks/training_step.py --compile --curves outputs/training_step.png

Networks and batches are the demo's. "plain" keeps weights as they are made, writes attention out and, in
stage 3, runs the frozen trunk once for the denoiser and once for the estimator. "default" is what the
stages do on this machine: convolutions channels-last, fused attention, the optimiser's step as one kernel,
the trunk once without gradients. "bf16" is the default under autocast, with slices cut into patches by a
product of matrices and group norms that work in float32 and give bf16 back; it pays where the processor
multiplies bf16 numbers. "bf16 compiled" is the same under torch.compile. All forms train from the same
weights on the same noise, one batch over and over; `loss_apart` is how far their losses lie from those of
the plain form, relative to these: the median over 100 steps. `noise` is that distance between the plain
form and itself on other noise.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from matplotlib import pyplot
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from turns import Result, in_turns, matrix_rate, operations, ratio, tell

from ldae.diffusion.model import GuidedDiffusion, LatentDenoiser
from ldae.diffusion.prediction import add_noise
from ldae.diffusion.schedule import Schedule
from ldae.nets.autoencoder import Autoencoder, AutoencoderConfig
from ldae.nets.backbones import BackboneConfig
from ldae.nets.cpu_convolutions import fit_to_cpu
from ldae.nets.estimator import EstimatorConfig, GradientEstimator
from ldae.nets.half_norms import norms_in_float32
from ldae.nets.semantic import SemanticConfig, SemanticEncoder
from ldae.nets.unet import UNet, UNetConfig
from ldae.stages.optimiser import OptimiserConfig, Phase, make_optimiser

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "demo"
SIZE, LATENT = (32, 40, 32), (3, 8, 10, 8)
CURVE, RATE = 100, 1e-4
LossOf = Callable[[], Tensor]


def arguments(stage: str) -> dict[str, Any]:
    """The model's arguments in a config of the demo, lists as tuples."""
    document = yaml.safe_load((CONFIGS / f"{stage}.yaml").read_text())
    found: dict[str, Any] = document["model"]["init_args"]
    return {
        name: {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
        if isinstance(table, dict)
        else table
        for name, table in found.items()
    }


@dataclass
class Step:
    """A stage's networks, those of them that are compiled where asked for, and the loss of one batch."""

    parts: list[nn.Module]
    compiled: list[nn.Module]
    loss: LossOf
    batch: int


def autoencoder_step(*, plain: bool) -> Step:
    """L1 and KL of stage 1."""
    net = Autoencoder(AutoencoderConfig(**arguments("aekl")["autoencoder"]))
    batch = 2
    x = torch.rand(batch, 1, *SIZE)

    def loss() -> Tensor:
        mean, sigma = net.encode(x)
        found = net.decode(mean + sigma * torch.randn_like(sigma)).float()
        kl = 0.5 * (mean.float().square() + sigma.float().square() - sigma.float().square().log() - 1).sum()
        return functional.l1_loss(found, x) + 1e-8 * kl / batch

    return Step([net], [net.net.encoder, net.net.decoder], loss, batch)


def make_unet() -> UNet:
    """The demo's denoising UNet; its output is not zero, as after the first steps."""
    net = UNet(UNetConfig(**arguments("ldae_pretrain")["unet"]))
    nn.init.normal_(net.up.output.weight, std=0.01)
    return net


def denoiser_step(*, plain: bool) -> Step:
    """Stage 2's loss."""
    schedule = Schedule()
    model = LatentDenoiser(make_unet(), schedule=schedule, prediction="v")
    batch = 16
    z0 = torch.randn(batch, *LATENT)

    def loss() -> Tensor:
        t, noise = torch.randint(len(schedule), (batch,)), torch.randn_like(z0)
        z = add_noise(z0, noise, schedule.signal(t, z0.ndim))
        found: Tensor = (model(z, t) - model.prediction.target(z0, noise, t)).square().mean()
        return found

    return Step([model], [model.unet], loss, batch)


def representation_step(*, plain: bool) -> Step:
    """Stage 3's diffusion loss."""
    settings = dict(arguments("ldae_repr_learn")["encoder"])
    backbone = BackboneConfig(**settings.pop("backbone"))
    encoder = SemanticEncoder(SemanticConfig(**settings, backbone=backbone), size=SIZE)
    frozen = LatentDenoiser(make_unet(), schedule=Schedule(), prediction="v").requires_grad_(False)
    estimator = GradientEstimator(
        EstimatorConfig(),
        unet=frozen.unet.config,
        code_size=encoder.config.code_size,
        latent_shape=LATENT[1:],
    )
    nn.init.normal_(estimator.up.output.weight, std=0.01)
    model = GuidedDiffusion(frozen, estimator)
    batch = 16
    x, z0 = torch.rand(batch, 1, *SIZE), torch.randn(batch, *LATENT)

    def guided(z: Tensor, t: Tensor, y: Tensor) -> Tensor:
        if not plain:
            out: Tensor = model(z, t, y)
            return out
        output = frozen(z, t)
        gradient = estimator(frozen.unet.trunk(z, t), y, estimator.latent(y)).float()
        return model.prediction.guide(output, gradient, t)

    def loss() -> Tensor:
        t, noise = torch.randint(len(model.schedule), (batch,)), torch.randn_like(z0)
        z = add_noise(z0, noise, model.schedule.signal(t, z0.ndim))
        found: Tensor = (guided(z, t, encoder(x)) - model.prediction.target(z0, noise, t)).square().mean()
        return found

    return Step(
        [encoder, estimator, frozen], [encoder, estimator.up, frozen.unet.trunk, frozen.unet.up], loss, batch
    )


STEPS = {"1": autoencoder_step, "2": denoiser_step, "3": representation_step}


class Training:
    """One form of a stage, an optimiser step at a time."""

    def __init__(self, stage: str, *, form: str) -> None:
        torch.manual_seed(0)
        self.form = form
        self.step = STEPS[stage](plain=form == "plain")
        parameters = [p for part in self.step.parts for p in part.parameters() if p.requires_grad]
        self.optimiser: torch.optim.Optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.0)
        if form != "plain":
            config, phases = OptimiserConfig(lr=RATE), [Phase(1, (RATE,))]
            self.optimiser, _ = make_optimiser(config, [parameters], phases=phases)
            for part in self.step.parts:
                norms_in_float32(part)
                fit_to_cpu(part)
        if "compiled" in form:
            for network in self.step.compiled:
                network.compile()

    def context(self) -> AbstractContextManager[Any]:
        """What the forward pass runs under."""
        if self.form == "plain":
            return sdpa_kernel(SDPBackend.MATH)
        return torch.autocast("cpu", dtype=torch.bfloat16) if "bf16" in self.form else nullcontext()

    def __call__(self) -> float:
        """One optimiser step; the loss."""
        with self.context():
            loss = self.step.loss()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self.optimiser.zero_grad()
        return float(loss.detach())

    def losses(self, *, seed: int = 1) -> Tensor:
        """The losses of the first steps."""
        torch.manual_seed(seed)
        return torch.tensor([self() for _ in range(CURVE)])


def median_apart(curve: Tensor, plain: Tensor) -> float:
    """How far one curve lies from another, relative to the other."""
    return float(f"{float(((curve - plain) / plain).abs().median()):.1e}")


def measure(stage: str, *, forms: list[str], repeats: int) -> tuple[Result, dict[str, Tensor]]:
    """One stage in all forms; figures and loss curves."""
    trainings = {form: Training(stage, form=form) for form in forms}
    curves = {form: training.losses() for form, training in trainings.items()}
    plain = curves["plain"]
    curves["plain, other noise"] = Training(stage, form="plain").losses(seed=2)
    taken = in_turns(trainings, repeats=repeats)
    flop, peak = operations(trainings["default"]), matrix_rate()
    peaks = {form: matrix_rate(dtype=torch.bfloat16) if "bf16" in form else peak for form in forms}
    batch = trainings["plain"].step.batch
    found: Result = {
        "volumes_per_second": {form: round(batch / min(times), 1) for form, times in taken.items()},
        "plain_over": {form: ratio(taken["plain"], taken[form]) for form in forms if form != "plain"},
        "loss_apart": {form: median_apart(curves[form], plain) for form in forms if form != "plain"},
        "noise": median_apart(curves["plain, other noise"], plain),
        "gflop_per_volume": round(flop / batch / 1e9, 2),
        "floor_ms_per_volume": round(1e3 * flop / batch / peak, 2),
        "matrix_gflops": round(peak / 1e9, 1),
        "share_of_matrix_rate": {
            form: round(flop / min(taken[form]) / rate, 2) for form, rate in peaks.items()
        },
    }
    return found, curves


def draw(curves: dict[str, dict[str, Tensor]], path: Path) -> None:
    """Loss over steps, a panel a stage, a line a form."""
    figure, axes = pyplot.subplots(1, len(curves), figsize=(4 * len(curves), 3.2), layout="constrained")
    for axis, (stage, lines) in zip(axes, curves.items(), strict=True):
        for number, (form, losses) in enumerate(lines.items()):
            other = "other" in form
            style = {"color": "0.75", "zorder": 0} if other else {"linestyle": (0, (6 - number, number))}
            axis.plot(range(1, CURVE + 1), losses, label=form, linewidth=1.2, **style)
        axis.set(title=f"Stage {stage}", xlabel="optimiser steps", ylabel="loss")
    axes[0].legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--compile", action="store_true", help="add the compiled form")
    parser.add_argument("--curves", type=Path, help="PNG file for the loss curves")
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    args = parser.parse_args()
    torch.set_flush_denormal(True)
    forms = ["plain", "default", "bf16", *(["bf16 compiled"] if args.compile else [])]
    stages = {stage: measure(stage, forms=forms, repeats=args.repeats) for stage in STEPS}
    if args.curves:
        draw({stage: curves for stage, (_, curves) in stages.items()}, args.curves)
    result: Result = {
        "matrix_gflops": round(matrix_rate() / 1e9, 1),
        "matrix_gflops_bf16": round(matrix_rate(dtype=torch.bfloat16) / 1e9, 1),
        **{f"stage_{stage}": found for stage, (found, _) in stages.items()},
    }
    tell(result, out=args.out)


if __name__ == "__main__":
    main()
