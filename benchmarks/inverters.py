# SPDX-License-Identifier: Apache-2.0
"""Which inverter, and in which coordinate: the candidates for z_T on test scans of a trained pipeline.

    python benchmarks/inverters.py --run-dir outputs/demo --out outputs/inverters

Every row takes as many network calls each way and keeps, where it can, a second state that makes its way back
exact. Coordinate z is the latent itself, on a grid even in t; in u the flow of a Gaussian stands still (see
`ldae.diffusion.gaussian_flow`), on a grid even in arccos sqrt(A). "swap" and "middle" are SSIM to the same
z_T and semantic code decoded by gaussian-2m in 60 calls: after another subject's semantic code was put in,
and halfway between two scans. Takes a minute on two cores.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import pandas as pd
import torch
from torch import Tensor

from ldae.data.artefact import atomic_path
from ldae.diffusion import exact
from ldae.diffusion.gaussian_flow import Gaussian, GaussianFlow
from ldae.diffusion.interpolation import lerp, mix, slerp_weights
from ldae.diffusion.multistep import EpsModel, ask, walk_gaussian
from ldae.diffusion.schedule import Schedule
from ldae.evaluation.image_metrics import ssim
from ldae.evaluation.material import Material, first_visits, open_scans
from ldae.pipeline.networks import Networks

REFERENCE_CALLS = 60


class Coordinate(Protocol):
    """A coordinate w of z_t in which a first-order step is w' = a w + b f(w)."""

    def enter(self, z: Tensor, t: int) -> Tensor:
        """w of z_t."""

    def leave(self, w: Tensor, t: int) -> Tensor:
        """z_t of w."""

    def factors(self, here: int, there: int) -> tuple[Tensor | float, Tensor | float]:
        """a and b."""

    def speed(self, model: EpsModel, w: Tensor, t: int) -> Tensor:
        """f, one network call."""

    def levels(self, steps: int) -> list[int]:
        """The grid, rising."""


@dataclass(frozen=True)
class Plain:
    """z_t itself: DDIM's step (arXiv 2010.02502, equation 12), with f the noise estimate."""

    schedule: Schedule

    def enter(self, z: Tensor, t: int) -> Tensor:
        """z_t."""
        return z

    def leave(self, w: Tensor, t: int) -> Tensor:
        """z_t."""
        return w

    def factors(self, here: int, there: int) -> tuple[Tensor, Tensor]:
        """a = sqrt(A'/A), b = sqrt(1-A') - a sqrt(1-A)."""
        now, then = self.schedule.alpha_bar[here], self.schedule.alpha_bar[there]
        growth = (then / now).sqrt()
        return growth, (1 - then).sqrt() - growth * (1 - now).sqrt()

    def speed(self, model: EpsModel, w: Tensor, t: int) -> Tensor:
        """The noise estimate."""
        return ask(model, w, t)

    def levels(self, steps: int) -> list[int]:
        """Even in t."""
        return self.schedule.grid(steps)


@dataclass(frozen=True)
class Flow:
    """u, in which a Gaussian's flow stands still."""

    flow: GaussianFlow

    def enter(self, z: Tensor, t: int) -> Tensor:
        """u of z_t."""
        return self.flow.whiten(z, t)

    def leave(self, w: Tensor, t: int) -> Tensor:
        """z_t of u."""
        return self.flow.colour(w, t)

    def factors(self, here: int, there: int) -> tuple[float, float]:
        """1 and the angle between the levels."""
        return 1.0, self.flow.arc(here, there)

    def speed(self, model: EpsModel, w: Tensor, t: int) -> Tensor:
        """du/dphi."""
        return self.flow.speed(w, ask(model, self.flow.colour(w, t), t), t)

    def levels(self, steps: int) -> list[int]:
        """Even in the angle."""
        return self.flow.schedule.angle_grid(steps)


class Inverter(Protocol):
    """Latents to noise and back."""

    def up(self, model: EpsModel, z0: Tensor, *, at: Coordinate, calls: int) -> tuple[Tensor, Tensor | None]:
        """z_T, and in the coordinate what is needed besides as a difference to it, or None."""

    def down(
        self, model: EpsModel, noise: Tensor, *, at: Coordinate, calls: int, kept: Tensor | None
    ) -> Tensor:
        """z_0."""


def euler(at: Coordinate, w: Tensor, speed: Tensor, *, here: int, there: int) -> Tensor:
    """One first-order step."""
    a, b = at.factors(here, there)
    return a * w + b * speed


class Ddim:
    """First order, forgetting (arXiv 2010.02502)."""

    def up(self, model: EpsModel, z0: Tensor, *, at: Coordinate, calls: int) -> tuple[Tensor, None]:
        """Up the grid."""
        return self._walk(model, z0, at=at, levels=at.levels(calls)), None

    def down(
        self, model: EpsModel, noise: Tensor, *, at: Coordinate, calls: int, kept: Tensor | None
    ) -> Tensor:
        """Down the grid."""
        return self._walk(model, noise, at=at, levels=at.levels(calls)[::-1])

    def _walk(self, model: EpsModel, z: Tensor, *, at: Coordinate, levels: Sequence[int]) -> Tensor:
        w = at.enter(z, levels[0])
        for here, there in pairwise(levels):
            w = euler(at, w, at.speed(model, w, here), here=here, there=there)
        return at.leave(w, levels[-1])


Next = Callable[[Coordinate, Tensor, Tensor, Tensor, tuple[int, int, int]], Tensor]
"""The state after two states and the speed at the second, at three levels; the same from either end."""


def bdia(at: Coordinate, before: Tensor, w: Tensor, speed: Tensor, levels: tuple[int, int, int]) -> Tensor:
    """BDIA with gamma = 1 (arXiv 2307.10829): the last state, moved by both DDIM steps of the present."""
    last, here, there = levels
    ahead = euler(at, w, speed, here=here, there=there)
    return before + ahead - euler(at, w, speed, here=here, there=last)


def belm(at: Coordinate, before: Tensor, w: Tensor, speed: Tensor, levels: tuple[int, int, int]) -> Tensor:
    """O-BELM (arXiv 2410.07273): of second order on an uneven grid too."""
    last, here, there = levels
    (a, b), (a_back, b_back) = at.factors(here, there), at.factors(here, last)
    ratio = -(b / a) / (b_back / a_back)
    scaled = ratio**2 * (before / a_back) + (1 - ratio**2) * w + (1 + ratio) * (b / a) * speed
    return a * scaled


@dataclass(frozen=True)
class TwoState:
    """An explicit rule over two states, exact backwards; the first step up is DDIM's."""

    rule: Next

    def up(self, model: EpsModel, z0: Tensor, *, at: Coordinate, calls: int) -> tuple[Tensor, Tensor]:
        """Up the grid; the state before the last is kept."""
        levels = at.levels(calls)
        before = at.enter(z0, levels[0])
        speed = at.speed(model, before, levels[0])
        w = euler(at, before, speed, here=levels[0], there=levels[1])
        return self._walk(model, before, w, at=at, levels=levels)

    def down(
        self, model: EpsModel, noise: Tensor, *, at: Coordinate, calls: int, kept: Tensor | None
    ) -> Tensor:
        """Down the grid, one call less than up."""
        assert kept is not None
        levels = at.levels(calls)[::-1]
        before = at.enter(noise, levels[0])
        return self._walk(model, before, before + kept, at=at, levels=levels)[0]

    def _walk(
        self, model: EpsModel, before: Tensor, w: Tensor, *, at: Coordinate, levels: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        for three in zip(levels, levels[1:], levels[2:], strict=False):
            before, w = w, self.rule(at, before, w, at.speed(model, w, three[1]), three)
        return at.leave(w, levels[-1]), before - w


@dataclass(frozen=True)
class Edict:
    """Two coupled chains that take turns in going first (arXiv 2211.12446, section 4); two calls a step."""

    mixing: float = 0.93

    def up(self, model: EpsModel, z0: Tensor, *, at: Coordinate, calls: int) -> tuple[Tensor, Tensor]:
        """Up a grid of half as many steps; the second chain is kept."""
        levels, p = at.levels(calls // 2)[::-1], self.mixing
        first = second = at.enter(z0, levels[-1])
        for turn, (high, low) in reversed(list(enumerate(pairwise(levels)))):
            a, b = at.factors(high, low)
            x, y = (second, first) if turn % 2 else (first, second)
            y = (y - (1 - p) * x) / p
            x = (x - (1 - p) * y) / p
            y = (y - b * at.speed(model, x, high)) / a
            x = (x - b * at.speed(model, y, high)) / a
            first, second = (y, x) if turn % 2 else (x, y)
        return at.leave(first, levels[0]), second - first

    def down(
        self, model: EpsModel, noise: Tensor, *, at: Coordinate, calls: int, kept: Tensor | None
    ) -> Tensor:
        """Down the same grid."""
        assert kept is not None
        levels, p = at.levels(calls // 2)[::-1], self.mixing
        first = at.enter(noise, levels[0])
        second = first + kept
        for turn, (high, low) in enumerate(pairwise(levels)):
            a, b = at.factors(high, low)
            x, y = (second, first) if turn % 2 else (first, second)
            x = a * x + b * at.speed(model, y, high)
            y = a * y + b * at.speed(model, x, high)
            x = p * x + (1 - p) * y
            y = p * y + (1 - p) * x
            first, second = (y, x) if turn % 2 else (x, y)
        return at.leave(first, levels[-1])


class Shipped:
    """Solver "exact"."""

    def up(self, model: EpsModel, z0: Tensor, *, at: Coordinate, calls: int) -> tuple[Tensor, Tensor]:
        """Up the grid."""
        return exact.walk_up(model, z0, levels=at.levels(calls), flow=flow_of(at))

    def down(
        self, model: EpsModel, noise: Tensor, *, at: Coordinate, calls: int, kept: Tensor | None
    ) -> Tensor:
        """Down the grid."""
        levels = at.levels(calls)[::-1]
        return exact.walk_down(model, noise, levels=levels, flow=flow_of(at), previous=kept)


class AdamsBashforth:
    """Solver "gaussian-2m"."""

    def up(self, model: EpsModel, z0: Tensor, *, at: Coordinate, calls: int) -> tuple[Tensor, None]:
        """Up the grid."""
        return walk_gaussian(model, z0, levels=at.levels(calls), flow=flow_of(at)), None

    def down(
        self, model: EpsModel, noise: Tensor, *, at: Coordinate, calls: int, kept: Tensor | None
    ) -> Tensor:
        """Down the grid."""
        return walk_gaussian(model, noise, levels=at.levels(calls)[::-1], flow=flow_of(at))


def flow_of(at: Coordinate) -> GaussianFlow:
    """The flow behind coordinate u."""
    assert isinstance(at, Flow)
    return at.flow


ROWS: tuple[tuple[str, str, Inverter], ...] = (
    ("DDIM", "z", Ddim()),
    ("BDIA", "z", TwoState(bdia)),
    ("BELM", "z", TwoState(belm)),
    ("EDICT (two calls a step)", "z", Edict()),
    ("EDICT (two calls a step)", "u", Edict()),
    ("BELM", "u", TwoState(belm)),
    ("BDIA (exact)", "u", Shipped()),
    ("Adams-Bashforth 2 (gaussian-2m)", "u", AdamsBashforth()),
)


@dataclass(frozen=True)
class Scans:
    """What the candidates are judged on.

    Attributes:
        networks: Of the pipeline.
        latents: z_0 [N, C, h, w, d].
        semantic: Codes [N, D].
    """

    networks: Networks
    latents: Tensor
    semantic: Tensor

    def at(self, coordinate: str, semantic: Tensor) -> Coordinate:
        """The coordinate, for scans with these codes."""
        schedule = self.networks.diffusion.schedule
        if coordinate == "z":
            return Plain(schedule)
        gaussian: Gaussian = self.networks.diffusion.gaussian(semantic)
        return Flow(GaussianFlow(gaussian, schedule))

    def truth(self, noise: Tensor, semantic: Tensor) -> Tensor:
        """Volumes of noise and codes, decoded by gaussian-2m in many calls."""
        latents = self.networks.from_noise(noise, semantic, steps=REFERENCE_CALLS, solver="gaussian-2m")
        return self.networks.expand(latents)


@torch.no_grad()
def judge(scans: Scans, inverter: Inverter, *, coordinate: str, calls: int) -> dict[str, float]:
    """One row of the table."""
    y, model = scans.semantic, scans.networks.diffusion.eps_model
    at = scans.at(coordinate, y)
    noise, kept = inverter.up(model(y), scans.latents, at=at, calls=calls)

    def likeness(z: Tensor, code: Tensor, other: Tensor | None) -> float:
        back = inverter.down(model(code), z, at=scans.at(coordinate, code), calls=calls, kept=other)
        return float(ssim(scans.networks.expand(back), scans.truth(z, code)).mean())

    back = inverter.down(model(y), noise, at=at, calls=calls, kept=kept)
    turned = [y.roll(1, 0), noise.roll(1, 0), None if kept is None else kept.roll(1, 0)]
    weights = slerp_weights(noise, turned[1], fraction=0.5)
    between = None if kept is None else mix(kept, turned[2], weights=weights)
    return {
        "noise_std": float(noise.double().std()),
        "latent_error": float((back - scans.latents).abs().max()),
        "swap": likeness(noise, turned[0], kept),
        "middle": likeness(mix(noise, turned[1], weights=weights), lerp(y, turned[0], fraction=0.5), between),
    }


def run() -> None:
    """All rows, as a table on the screen and in table.csv."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run-dir", type=Path, default=Path("outputs/demo"))
    parser.add_argument("--out", type=Path, default=Path("outputs/inverters"))
    parser.add_argument("--scans", type=int, default=4)
    parser.add_argument("--calls", type=int, default=10, help="each way")
    arguments = parser.parse_args()
    cohort = arguments.run_dir / "cohort" / "cohort.csv"
    material = Material.of(arguments.run_dir / "pipeline", cohort, out=arguments.out, device="cpu")
    opened = open_scans(material)
    networks = opened.pipeline.networks
    volumes = opened.volumes(first_visits(opened.rows, limit=arguments.scans))
    scans = Scans(networks, networks.compress(volumes), networks.describe(volumes))
    found = []
    for method, coordinate, inverter in ROWS:
        values = judge(scans, inverter, coordinate=coordinate, calls=arguments.calls)
        found.append({"method": method, "coordinate": coordinate, **values})
        with atomic_path(arguments.out / "table.csv") as temporary:
            pd.DataFrame(found).to_csv(temporary, index=False)
    print(pd.DataFrame(found).to_string(index=False))


if __name__ == "__main__":
    run()
