# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ldae.errors import InputError
from ldae.evaluation.attacks import ATTACKS, checkpoints, fgsm
from ldae.heads import LaDiNEClassifier, LinearProbe

SCANS, SHAPE = 24, (1, 4, 5, 3)
LABELS = torch.arange(SCANS) % 2


def accuracy(victim: Any, scans: Tensor) -> float:
    return float((victim(scans).argmax(1) == LABELS).double().mean())


def losses(victim: Any, scans: Tensor) -> Tensor:
    chances = victim(scans)
    return -chances[torch.arange(len(scans)), LABELS].log()


@pytest.fixture(scope="module")
def scans() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(SCANS, *SHAPE, generator=generator) * 0.8 + 0.1


@pytest.fixture(scope="module")
def network(scans: Tensor) -> Any:
    """A small network that knows every scan's class."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(60, 32), nn.GELU(), nn.Linear(32, 2))
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(150):
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(scans), LABELS).backward()
        optimiser.step()
    net.requires_grad_(False)

    def victim(given: Tensor) -> Tensor:
        return net(given).double().softmax(1)

    assert accuracy(victim, scans) == 1
    return victim


def attack(name: str, victim: Any, scans: Tensor, eps: float, **more: Any) -> Tensor:
    return ATTACKS[name](victim, scans, labels=LABELS, eps=eps, seeds=range(SCANS), **more)


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("eps", [2 / 255, 0.03, 0.3])
def test_the_change_keeps_within_the_ball_and_in_range(
    name: str, eps: float, network: Any, scans: Tensor
) -> None:
    found = attack(name, network, scans, eps)
    assert found.shape == scans.shape
    assert (found - scans).abs().max() <= eps + 1e-6
    assert 0 <= found.min() <= found.max() <= 1
    assert (losses(network, found) >= losses(network, scans)).all()


def test_each_attack_is_at_least_as_strong_as_a_simpler_one(network: Any, scans: Tensor) -> None:
    for eps in (0.01, 0.02, 0.04):
        left = [accuracy(network, attack(name, network, scans, eps)) for name in ("fgsm", "pgd", "apgd")]
        assert left[0] >= left[1] >= left[2]
        hurt = [losses(network, attack(name, network, scans, eps)).mean() for name in ("fgsm", "pgd", "apgd")]
        assert hurt[0] <= hurt[1] + 1e-6
        assert hurt[1] <= hurt[2] * 1.001


@pytest.mark.parametrize("name", ["pgd", "apgd"])
def test_without_a_limit_nothing_is_left(name: str, network: Any, scans: Tensor) -> None:
    assert accuracy(network, attack(name, network, scans, 1.0)) == 0


@pytest.mark.parametrize("name", ATTACKS)
def test_against_a_linear_victim_every_attack_finds_the_corner(name: str, scans: Tensor) -> None:
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(60, generator=generator, dtype=torch.float64)

    def victim(given: Tensor) -> Tensor:
        score = given.flatten(1).double() @ weights
        return torch.stack([-score, score], 1).softmax(1)

    eps = 0.02
    towards = torch.where(LABELS == 0, 1.0, -1.0).reshape(-1, 1, 1, 1, 1)
    corner = scans + eps * towards * weights.sign().float().reshape(1, *SHAPE)
    found = attack(name, victim, scans, eps)
    torch.testing.assert_close(losses(victim, found), losses(victim, corner), rtol=1e-3, atol=1e-6)
    if name == "fgsm":
        torch.testing.assert_close(found, corner)


def test_a_scan_is_attacked_alike_in_any_batch(network: Any, scans: Tensor) -> None:
    for name in ATTACKS:
        together = attack(name, network, scans, 0.02)
        alone = ATTACKS[name](network, scans[5:7], labels=LABELS[5:7], eps=0.02, seeds=range(5, 7))
        torch.testing.assert_close(alone, together[5:7], atol=1e-5, rtol=0)


def test_apgd_looks_back_where_it_was_published_to() -> None:
    assert checkpoints(100) == {22: 22, 41: 19, 57: 16, 70: 13, 80: 10, 87: 7, 93: 6, 99: 6}


def test_a_head_that_draws_is_attacked_through_its_expectation() -> None:
    labels = np.repeat([0, 1], 30)
    codes = np.random.default_rng(0).standard_normal((60, 12)) + 0.8 * labels[:, None]
    codes = (codes - codes.min()) / np.ptp(codes)
    given = torch.from_numpy(codes).float().reshape(-1, 1, 3, 2, 2)
    truth = torch.from_numpy(labels)
    left = {}
    for head in (LinearProbe(), LaDiNEClassifier(members=2, diffusion_steps=100, epochs=20)):
        head.fit(codes, labels)
        generator = torch.Generator().manual_seed(0)

        def victim(points: Tensor, head: Any = head, generator: Any = generator) -> Tensor:
            return head.differentiable_proba(points.flatten(1).double(), generator=generator)

        found = ATTACKS["pgd"](victim, given, labels=truth, eps=0.15, seeds=range(len(codes)), steps=20)
        said = head.predict(found.flatten(1).double().numpy())
        left[type(head).__name__] = np.mean(said == labels), np.mean(head.predict(codes) == labels)
    for name, (after, before) in left.items():
        assert after < before - 0.3, name


def test_faults_are_told_in_a_sentence(network: Any, scans: Tensor) -> None:
    with pytest.raises(InputError, match="eps must be between 0 and 1, got 8"):
        attack("pgd", network, scans, 8)
    with pytest.raises(InputError, match=r"scans must be \[B, 1, X, Y, Z\] with a label each"):
        fgsm(network, scans, labels=LABELS[:3], eps=0.1, seeds=range(SCANS))
    with pytest.raises(InputError, match=r"scans must lie in \[0, 1\]"):
        fgsm(network, 2 * scans, labels=LABELS, eps=0.1, seeds=range(SCANS))
