# SPDX-License-Identifier: Apache-2.0
"""Attacks on a classifier of scans: the change of at most eps a voxel that raises its loss most.

All three raise the cross-entropy, keep within eps of the scan in every voxel and within [0, 1], and give back
the point of the highest loss that was seen, one that is taken for another class first. Scans of a batch do
not see one another. A head that draws is averaged inside of what is attacked (expectation over
transformation, arXiv 1707.07397), so that the encoder is differentiated once a step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ldae.errors import InputError

Victim = Callable[[Tensor], Tensor]
"""Scans [B, 1, X, Y, Z] to class probabilities [B, C], differentiable."""
Attack = Callable[..., Tensor]

PGD_STEPS = 40
PGD_REACH = 2.5  # of eps, by all steps together
APGD_STEPS = 100
APGD_MOMENTUM = 0.75
APGD_PROGRESS = 0.75
APGD_FIRST, APGD_SHORTER, APGD_SHORTEST = 0.22, 0.03, 0.06
SMALLEST = 1e-30


class _Best:
    """The best point seen for each scan."""

    def __init__(self, scans: Tensor) -> None:
        self.points = scans.clone()
        self.losses = torch.full((len(scans),), -torch.inf, dtype=torch.float64)
        self.fooled = torch.zeros(len(scans), dtype=torch.bool)

    def look(self, points: Tensor, losses: Tensor, wrong: Tensor) -> None:
        better = (wrong & ~self.fooled) | ((wrong == self.fooled) & (losses > self.losses))
        self.points[better] = points[better]
        self.losses[better] = losses[better]
        self.fooled |= wrong


def _gradient(victim: Victim, points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient of the cross-entropy, the cross-entropy [B], and whether another class is said [B]."""
    given = points.detach().requires_grad_()
    chances = victim(given)
    losses = -chances[torch.arange(len(labels)), labels].clamp_min(SMALLEST).log()
    (gradient,) = torch.autograd.grad(losses.sum(), given)
    return gradient, losses.detach().double(), chances.detach().argmax(1) != labels


def _look(victim: Victim, points: Tensor, labels: Tensor, *, best: _Best) -> None:
    with torch.no_grad():
        chances = victim(points)
    losses = -chances[torch.arange(len(labels)), labels].clamp_min(SMALLEST).log()
    best.look(points, losses.double(), chances.argmax(1) != labels)


def _within(points: Tensor, scans: Tensor, eps: float) -> Tensor:
    """The closest points in the ball, and in [0, 1]."""
    return torch.minimum(torch.maximum(points, scans - eps), scans + eps).clamp(0, 1)


def _checked(scans: Tensor, labels: Tensor, eps: float) -> None:
    if not 0 <= eps <= 1:
        raise InputError(f"eps must be between 0 and 1, got {eps}.")
    if scans.ndim != 5 or len(labels) != len(scans):
        raise InputError(
            f"scans must be [B, 1, X, Y, Z] with a label each, got {tuple(scans.shape)} and {len(labels)}."
        )
    if not ((scans >= 0) & (scans <= 1)).all():
        raise InputError("scans must lie in [0, 1]: an attack keeps within the range of preprocessed scans.")


def fgsm(victim: Victim, scans: Tensor, *, labels: Tensor, eps: float, seeds: Sequence[int]) -> Tensor:
    """One step of size eps along the sign of the gradient (arXiv 1412.6572).

    Args:
        victim: What is attacked.
        scans: [B, 1, X, Y, Z] in [0, 1].
        labels: Index of the true class of each [B].
        eps: Largest change of a voxel.
        seeds: A seed a scan; nothing is drawn.

    Returns:
        The scans changed, of the same shape.
    """
    _checked(scans, labels, eps)
    best = _Best(scans)
    gradient, losses, wrong = _gradient(victim, scans, labels)
    best.look(scans, losses, wrong)
    _look(victim, _within(scans + eps * gradient.sign(), scans, eps), labels, best=best)
    return best.points


def pgd(
    victim: Victim,
    scans: Tensor,
    *,
    labels: Tensor,
    eps: float,
    seeds: Sequence[int],
    steps: int = PGD_STEPS,
) -> Tensor:
    """Steps of 2.5 eps / steps along the sign of the gradient from a random start (arXiv 1706.06083).

    LaDiNE took foolbox's eps / 30: forty of these do not cross the ball, and from a random start they end
    short of what a single step of size eps reaches.

    Args:
        victim: What is attacked.
        scans: [B, 1, X, Y, Z] in [0, 1].
        labels: Index of the true class of each [B].
        eps: Largest change of a voxel.
        seeds: A seed a scan, of its random start.
        steps: Gradients.

    Returns:
        The scans changed, of the same shape.
    """
    _checked(scans, labels, eps)
    best = _Best(scans)
    points = _within(scans + eps * _uniform(scans, seeds), scans, eps)
    for _ in range(steps):
        gradient, losses, wrong = _gradient(victim, points, labels)
        best.look(points, losses, wrong)
        points = _within(points + PGD_REACH / steps * eps * gradient.sign(), scans, eps)
    _look(victim, points, labels, best=best)
    return best.points


def apgd(
    victim: Victim,
    scans: Tensor,
    *,
    labels: Tensor,
    eps: float,
    seeds: Sequence[int],
    steps: int = APGD_STEPS,
) -> Tensor:
    """APGD-CE, algorithm 1 of arXiv 2003.01690: momentum, and steps halved where the loss stops rising.

    Args:
        victim: What is attacked.
        scans: [B, 1, X, Y, Z] in [0, 1].
        labels: Index of the true class of each [B].
        eps: Largest change of a voxel.
        seeds: A seed a scan, of its random start.
        steps: Gradients.

    Returns:
        The scans changed, of the same shape.
    """
    _checked(scans, labels, eps)
    start = _uniform(scans, seeds)
    start = start / start.flatten(1).abs().amax(1).reshape(-1, 1, 1, 1, 1)
    points = _within(scans + eps * start, scans, eps)
    best, search = _Best(scans), _Search(points, step=2 * eps)
    checks = checkpoints(steps)
    for number in range(steps):
        gradient, losses, wrong = _gradient(victim, points, labels)
        best.look(points, losses, wrong)
        points, gradient = search.look(points, gradient, losses, restart=number in checks)
        ahead = _within(points + search.size * gradient.sign(), scans, eps)
        share = APGD_MOMENTUM if number else 1.0
        moved = points + share * (ahead - points) + (1 - share) * (points - search.before)
        search.before, points = points, _within(moved, scans, eps)
    _look(victim, points, labels, best=best)
    return best.points


def checkpoints(steps: int) -> dict[int, int]:
    """The steps after which APGD looks back, and over how many each looks."""
    places, before, now = [0], 0.0, APGD_FIRST
    while now < 1:
        places.append(round(now * steps))
        before, now = now, now + max(now - before - APGD_SHORTER, APGD_SHORTEST)
    return {place: place - last for last, place in pairwise(places) if place > last}


class _Search:
    """What APGD keeps of each scan: its step, its highest loss and where it was, and how often it rose."""

    def __init__(self, points: Tensor, *, step: float) -> None:
        shape = (len(points), *[1] * (points.ndim - 1))
        self.size = torch.full(shape, step).to(points)
        self.before = points.clone()
        self.highest = torch.full((len(points),), -torch.inf, dtype=torch.float64)
        self.place, self.slope = points.clone(), torch.zeros_like(points)
        self.last = self.highest.clone()
        self.rises = torch.zeros(len(points))
        self.since = 0
        self.marked = self.highest.clone()
        self.halved = torch.ones(len(points), dtype=torch.bool)

    def look(
        self, points: Tensor, gradient: Tensor, losses: Tensor, *, restart: bool
    ) -> tuple[Tensor, Tensor]:
        """Where to go on from, and the gradient there."""
        self.rises += losses > self.last
        self.since += 1
        self.last = losses
        higher = losses > self.highest
        self.highest = torch.where(higher, losses, self.highest)
        self.place[higher], self.slope[higher] = points[higher], gradient[higher]
        if not restart:
            return points, gradient
        stalled = ~self.halved & (self.marked >= self.highest)
        halve = (self.rises <= APGD_PROGRESS * self.since) | stalled
        self.halved, self.marked = halve, self.highest.clone()
        self.rises, self.since = torch.zeros_like(self.rises), 0
        self.size[halve] /= 2
        points, gradient = points.clone(), gradient.clone()
        points[halve], gradient[halve] = self.place[halve], self.slope[halve]
        self.before[halve] = self.place[halve]
        return points, gradient


def _uniform(scans: Tensor, seeds: Sequence[int]) -> Tensor:
    """Uniform in [-1, 1], of each scan's own seed."""
    drawn = [
        torch.rand(scans.shape[1:], generator=torch.Generator().manual_seed(seed)).to(scans) for seed in seeds
    ]
    return 2 * torch.stack(drawn) - 1


ATTACKS: dict[str, Attack] = {"fgsm": fgsm, "pgd": pgd, "apgd": apgd}
