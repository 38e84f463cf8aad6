# SPDX-License-Identifier: Apache-2.0
"""All image metrics of a volume against its reference at once, as they should be taken and as published."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn

from ldae.errors import InputError
from ldae.evaluation.image_metrics import (
    MS_SSIM_LEVELS,
    SSIM_WINDOW,
    ms_ssim,
    ms_ssim_levels,
    mse,
    psnr,
    ssim,
)
from ldae.nets.perceptual import PLANES, SQUEEZENET_FILE, PerceptualConfig, make_lpips

PSNR_CEILING = 140.0
"""dB; below the rounding of float32, so that volumes equal to the last bit keep a mean finite."""


@dataclass(frozen=True)
class LpipsRule:
    """How LPIPS of slices becomes one number for a volume.

    Attributes:
        slice_share: Share of the slices of each plane, drawn at random, on which it is taken, 0..1.
        signed: Bring intensities from [0, 1] to [-1, 1] first, as LPIPS was trained.
        summed: Add the means of the three planes up rather than average them.
    """

    slice_share: float = 1.0
    signed: bool = True
    summed: bool = False


@dataclass(frozen=True)
class MetricRule:
    """Which settings the metrics have.

    Attributes:
        ssim_window: Side of SSIM's window in voxels.
        lpips: How LPIPS is taken.
    """

    ssim_window: int = SSIM_WINDOW
    lpips: LpipsRule = field(default_factory=LpipsRule)


RULE = MetricRule()
PUBLISHED_RULE = MetricRule(ssim_window=3, lpips=LpipsRule(slice_share=0.5, signed=False, summed=True))
"""LDAE (arXiv 2504.08635) as published; LPIPS is MONAI's `PerceptualLoss` with its own defaults."""


def volume_lpips(
    net: nn.Module,
    image: Tensor,
    reference: Tensor,
    *,
    rule: LpipsRule = RULE.lpips,
    mask: Tensor | None = None,
    seed: int = 0,
) -> Tensor:
    """LPIPS (arXiv 1801.03924) of each scan [B], over slices of all three planes.

    Args:
        net: LPIPS, such as `ldae.nets.perceptual.make_lpips` gives.
        image: Volumes [B, 1, X, Y, Z] in [0, 1].
        reference: Volumes of the same shape.
        rule: Which slices, and how they are scaled and gathered.
        mask: Both volumes become 0 outside of it, [B, 1, X, Y, Z].
        seed: Draws the slices, the same ones in every scan.
    """
    if mask is not None:
        image, reference = image * mask, reference * mask
    device = next(net.parameters()).device
    pairs = torch.stack([image, reference], dim=1).to(device)
    generator = torch.Generator().manual_seed(seed)
    planes = []
    for pattern, axis in PLANES:
        count = max(1, int(rule.slice_share * image.shape[axis]))
        chosen = torch.randperm(image.shape[axis], generator=generator)[:count].to(device)
        # Scan by scan: all slices of one volume are a large batch already.
        values = [_slices(net, pair.index_select(axis, chosen), pattern, rule=rule) for pair in pairs]
        planes.append(torch.stack(values))
    distances = torch.stack(planes)
    return (distances.sum(0) if rule.summed else distances.mean(0)).cpu()


@torch.no_grad()
def _slices(net: nn.Module, pair: Tensor, pattern: str, *, rule: LpipsRule) -> Tensor:
    """Mean over the slices of one plane of one pair [2, 1, X, Y, Z]."""
    left, right = (rearrange(volume[None], pattern).expand(-1, 3, -1, -1) for volume in pair)
    if rule.signed:
        left, right = 2 * left - 1, 2 * right - 1
    mean: Tensor = net(left, right).mean()
    return mean


@dataclass(frozen=True)
class Panel:
    """The metrics that can be taken of volumes of one size with what is at hand.

    Attributes:
        rule: Their settings.
        levels: Levels of MS-SSIM; 0 where the volumes are too small for it.
        lpips: The network, or None where its weights are not at hand.
        notes: What is left out and why, in sentences.
    """

    rule: MetricRule
    levels: int
    lpips: nn.Module | None
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, size: tuple[int, ...], *, rule: MetricRule = RULE, device: torch.device) -> Panel:
        """The metrics of volumes of this size; nothing is fetched."""
        notes = []
        levels = ms_ssim_levels(size) if min(size) >= min(MS_SSIM_LEVELS) else 0
        if not levels:
            notes.append(
                f"MS-SSIM is left out: it needs {min(MS_SSIM_LEVELS)} voxels a side, the volumes have "
                f"{' x '.join(map(str, size))}."
            )
        try:
            lpips: nn.Module | None = make_lpips(PerceptualConfig()).to(device)
        except InputError:
            lpips = None
            path = Path(torch.hub.get_dir()) / "checkpoints" / SQUEEZENET_FILE
            notes.append(f"LPIPS is left out: the weights of its network are not at {path}.")
        return cls(rule, levels, lpips, tuple(notes))

    @property
    def names(self) -> list[str]:
        """The metrics by name."""
        known = {"ssim": True, "ms_ssim": self.levels > 0, "psnr": True, "mse": True}
        return [name for name, there in (known | {"lpips": self.lpips is not None}).items() if there]

    def measure(self, image: Tensor, reference: Tensor, *, mask: Tensor | None = None) -> dict[str, Tensor]:
        """Every metric of each scan, [B] each.

        Args:
            image: Volumes [B, 1, X, Y, Z] in [0, 1].
            reference: Volumes of the same shape.
            mask: Where to look, [B, 1, X, Y, Z], true inside; None is the whole volume.
        """
        found = {
            "ssim": ssim(image, reference, mask=mask, window=self.rule.ssim_window),
            "psnr": psnr(image, reference, mask=mask).clamp(max=PSNR_CEILING),
            "mse": mse(image, reference, mask=mask),
        }
        if self.levels:
            found["ms_ssim"] = ms_ssim(image, reference, mask=mask)
        if self.lpips is not None:
            found["lpips"] = volume_lpips(self.lpips, image, reference, rule=self.rule.lpips, mask=mask)
        return {name: found[name] for name in self.names}
