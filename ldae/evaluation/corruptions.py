# SPDX-License-Identifier: Apache-2.0
"""Corruptions of preprocessed scans, in grades, from none to what no reader would accept.

Each takes one scan [1, X, Y, Z] in [0, 1], a grade in its own unit and the generator of what it draws; a
grade of `none` returns the scan. Gaussian noise, low resolution and contrast are those of LaDiNE (arXiv
2310.15952, section IV), in three dimensions. Noise is not clipped, as there; everything else ends in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ldae.errors import InputError

Apply = Callable[[Tensor, float, np.random.Generator], Tensor]

BIAS_ORDER = 3
BIAS_COEFFICIENTS = 20  # of a polynomial of that order in three variables
GHOSTS = 4
GHOST_AXIS = 1  # anterior to posterior, the usual phase-encoding direction
MOVEMENTS = 2
SPIKE_REACH = (0.1, 0.4)  # distance from the centre of k-space, of its side


@dataclass(frozen=True)
class Corruption:
    """A corruption and its grades.

    Attributes:
        name: What it is called.
        unit: What the grades count.
        grades: From mild to severe.
        none: The grade that leaves a scan as it is.
        apply: Takes a scan, a grade and a generator.
        drawn: Whether it draws anything: a corruption that does not is the same under every seed.
    """

    name: str
    unit: str
    grades: tuple[float, ...]
    none: float
    apply: Apply
    drawn: bool = True

    def __call__(self, scan: Tensor, *, grade: float, generator: np.random.Generator) -> Tensor:
        """The corrupted scan [1, X, Y, Z].

        Raises:
            InputError: The scan is no float [1, X, Y, Z], or the grade is not finite.
        """
        if scan.ndim != 4 or len(scan) != 1 or not scan.is_floating_point():
            raise InputError(f"scan must be a float tensor [1, X, Y, Z], got {tuple(scan.shape)}.")
        if not np.isfinite(grade):
            raise InputError(f"grade of {self.name} must be finite, got {grade}.")
        return scan if grade == self.none else self.apply(scan, grade, generator)


def scan_generator(seed: int, *words: object) -> np.random.Generator:
    """A generator that depends on a seed and a scan's names alone, not on the order of scans."""
    digest = blake2b("|".join(map(str, (seed, *words))).encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


def _normal(scan: Tensor, generator: np.random.Generator) -> Tensor:
    return torch.from_numpy(generator.standard_normal(tuple(scan.shape), dtype=np.float32))


def gaussian_noise(scan: Tensor, sigma: float, generator: np.random.Generator) -> Tensor:
    """x + sigma N(0, 1)."""
    return scan + sigma * _normal(scan, generator)


def rician_noise(scan: Tensor, sigma: float, generator: np.random.Generator) -> Tensor:
    """Magnitude of the scan with Gaussian noise in both channels: |x + sigma N + i sigma N|."""
    real, imaginary = (sigma * _normal(scan, generator) for _ in range(2))
    return torch.hypot(scan + real, imaginary)


def low_resolution(scan: Tensor, factor: float, generator: np.random.Generator) -> Tensor:
    """Every side divided by a factor and brought back, linearly both ways."""
    return _resized(scan, [factor] * 3)


def thick_slices(scan: Tensor, factor: float, generator: np.random.Generator) -> Tensor:
    """The same from head to foot only."""
    return _resized(scan, [1.0, 1.0, factor])


def _resized(scan: Tensor, factors: list[float]) -> Tensor:
    size = scan.shape[1:]
    small = [max(1, round(side / factor)) for side, factor in zip(size, factors, strict=True)]
    down = functional.interpolate(scan[None], size=small, mode="trilinear", align_corners=False)
    return functional.interpolate(down, size=tuple(size), mode="trilinear", align_corners=False)[0]


def low_contrast(scan: Tensor, share: float, generator: np.random.Generator) -> Tensor:
    """mean + share (x - mean), clipped to [0, 1]."""
    mean = scan.mean()
    return (mean + share * (scan - mean)).clamp(0, 1)


def gamma_shift(scan: Tensor, gamma: float, generator: np.random.Generator) -> Tensor:
    """x to the power of gamma."""
    return scan.clamp(0, 1).pow(gamma)


def bias_field(scan: Tensor, strength: float, generator: np.random.Generator) -> Tensor:
    """Times the exponential of a polynomial of third order, its coefficients uniform within +-strength."""
    drawn = generator.uniform(-1, 1, BIAS_COEFFICIENTS) * strength
    return _torchio("BiasField", scan, coefficients=drawn.tolist(), order=BIAS_ORDER)


def motion(scan: Tensor, size: float, generator: np.random.Generator) -> Tensor:
    """Two movements while k-space is read: rotations within +-size degrees, shifts within +-size voxels."""
    degrees, shifts = (generator.uniform(-size, size, (MOVEMENTS, 3)) for _ in range(2))
    times = np.sort(generator.uniform(0, 1, MOVEMENTS))
    return _torchio(
        "Motion", scan, degrees=degrees, translation=shifts, times=times, image_interpolation="linear"
    )


def ghosting(scan: Tensor, intensity: float, generator: np.random.Generator) -> Tensor:
    """Every fourth plane of k-space weakened by this share, but for its middle: copies along one axis."""
    return _torchio("Ghosting", scan, num_ghosts=GHOSTS, axis=GHOST_AXIS, intensity=intensity, restore=None)


def spike(scan: Tensor, intensity: float, generator: np.random.Generator) -> Tensor:
    """One point of k-space too high by this share of its maximum: stripes over the whole scan."""
    place = generator.uniform(*SPIKE_REACH, (1, 3)) * generator.choice([-1, 1], (1, 3))
    return _torchio("Spike", scan, spikes_positions=0.5 + place, intensity=intensity)


def _torchio(name: str, scan: Tensor, **settings: Any) -> Tensor:
    try:
        import torchio
    except ImportError as error:
        raise InputError(
            "ldae evaluate robustness needs torchio. Install it with: pip install 'ldae[robustness]'"
        ) from error
    changed: Tensor = getattr(torchio, name)(**settings)(scan)
    return changed.float().abs().clamp(max=1)  # a scanner gives magnitudes


NOISE = (0.05, 0.1, 0.2, 0.5, 1.0)
CORRUPTIONS = tuple(
    Corruption(*values)
    for values in (
        ("gaussian", "standard deviation of the noise", NOISE, 0.0, gaussian_noise),
        ("low_resolution", "factor", (2.0, 4.0, 8.0), 1.0, low_resolution, False),
        ("contrast", "share of the contrast left", (0.9, 0.8, 0.7), 1.0, low_contrast, False),
        ("rician", "standard deviation of the noise", NOISE, 0.0, rician_noise),
        ("thick_slices", "factor", (2.0, 4.0, 8.0), 1.0, thick_slices, False),
        ("gamma", "exponent", (1.25, 1.5, 2.0), 1.0, gamma_shift, False),
        ("bias_field", "largest coefficient", (0.25, 0.5, 1.0), 0.0, bias_field),
        ("motion", "degrees and voxels", (1.0, 2.0, 4.0), 0.0, motion),
        ("ghosting", "share", (0.25, 0.5, 1.0), 0.0, ghosting, False),
        ("spike", "share of the highest value", (0.1, 0.2, 0.4), 0.0, spike),
    )
)
LADINE_CORRUPTIONS = ("gaussian", "low_resolution", "contrast")
