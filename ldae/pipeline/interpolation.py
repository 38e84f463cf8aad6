# SPDX-License-Identifier: Apache-2.0
"""The code between two codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ldae.diffusion.interpolation import lerp, slerp
from ldae.errors import InputError
from ldae.pipeline.code import Code


def mix_codes(a: Code, b: Code, *, fraction: float) -> Code:
    """The code between `a` (0) and `b` (1), at the place of `a`: straight for y, on the sphere for z_T."""
    stochastic = slerp(a.stochastic[None], b.stochastic[None], fraction=fraction)[0]
    return replace(
        a, semantic=lerp(a.semantic, b.semantic, fraction=fraction), stochastic=stochastic, auxiliary={}
    )


def check_fractions(fractions: Sequence[float], *, extrapolate: bool) -> None:
    """Stop on fractions outside of 0..1, unless they are wanted.

    Raises:
        InputError: With the fractions that are outside.
    """
    outside = [value for value in fractions if not 0 <= value <= 1]
    if outside and not extrapolate:
        raise InputError(
            f"fractions must lie within 0..1, got {outside}. Ask for extrapolation to go beyond the scans."
        )
