# SPDX-License-Identifier: Apache-2.0
"""The code between two codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ldae.diffusion.interpolation import lerp, mix, nearly_opposite, slerp_weights
from ldae.errors import InputError
from ldae.pipeline.auxiliary import mix_auxiliary
from ldae.pipeline.code import Code


def mix_codes(a: Code, b: Code, *, fraction: float) -> Code:
    """The code between `a` (0) and `b` (1), at the place of `a`: straight for y, on the sphere for z_T.

    Near-parallel z_T are mixed on the straight line. What an exact solver needs besides is mixed with the
    weights of z_T.

    Raises:
        InputError: The two z_T point away from each other, or only one of the codes is an exact solver's.
    """
    first, second = a.stochastic[None], b.stochastic[None]
    if bool(nearly_opposite(first, second)):
        raise InputError(
            "The stochastic codes of two scans must not be opposite, got an angle of 180 degrees: there is "
            "no shortest way between them. Give one of them fresh noise."
        )
    weights = slerp_weights(first, second, fraction=fraction)
    return replace(
        a,
        semantic=lerp(a.semantic, b.semantic, fraction=fraction),
        stochastic=mix(first, second, weights=weights)[0],
        auxiliary=mix_auxiliary(a, b, weights=weights),
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
