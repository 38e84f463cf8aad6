# SPDX-License-Identifier: Apache-2.0
"""What an exact solver keeps in a code besides z_T: how it is stored, mixed and checked.

It is the last step of the way up, in a coordinate that has the semantic code's share taken out. So it stays
as it is when the semantic code is swapped or moved, and follows z_T with the same weights in a mix.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ldae.diffusion.interpolation import mix
from ldae.diffusion.samplers import DEFAULT_SOLVER, Solver, check_solver
from ldae.errors import InputError
from ldae.pipeline.code import Code

PREVIOUS, STEPS = "previous", "steps"


def pack_auxiliary(previous: Tensor, *, steps: int) -> dict[str, Tensor]:
    """The auxiliary of a code that "exact" encoded in so many steps."""
    return {PREVIOUS: previous.clone(), STEPS: torch.tensor(steps)}


def has_auxiliary(code: Code) -> bool:
    """Whether the code holds all that "exact" needs."""
    return PREVIOUS in code.auxiliary and STEPS in code.auxiliary


def choose_solver(codes: Sequence[Code], *, solver: Solver | None, steps: int) -> Solver:
    """The solver to decode codes with: the one that was asked for, else the one that made them.

    Raises:
        InputError: Unknown solver; "exact" is to decode a code without its auxiliary, or in another number of
            steps than it was encoded in; or the codes were made by several solvers and none is named.
    """
    chosen = solver or codes[0].solver
    check_solver(chosen)
    made = sorted({code.solver for code in codes})
    if solver is None and len(made) > 1:
        raise InputError(
            f"Codes must be made by one solver, got {', '.join(made)}. Name the one to decode with."
        )
    if chosen == "exact":
        _check_exact(codes, steps)
    return chosen


def stack_previous(codes: Sequence[Code]) -> Tensor:
    """The last steps of several codes, [B, C, h, w, d]."""
    return torch.stack([code.auxiliary[PREVIOUS] for code in codes])


def mix_auxiliary(a: Code, b: Code, *, weights: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """The auxiliary between two codes, with the weights [1] of their z_T; empty where neither has one.

    Raises:
        InputError: One of the two has none, or they were encoded in different numbers of steps.
    """
    if not has_auxiliary(a) and not has_auxiliary(b):
        return {}
    found = [int(code.auxiliary[STEPS]) if has_auxiliary(code) else None for code in (a, b)]
    if found[0] is None or found[0] != found[1]:
        raise InputError(
            "Two codes must both be encoded by solver exact in the same number of steps to be mixed, got "
            f"{found[0]} and {found[1]} steps. Encode both alike."
        )
    first, second = (stack_previous([code]) for code in (a, b))
    return pack_auxiliary(mix(first, second, weights=weights)[0], steps=found[0])


def _check_exact(codes: Sequence[Code], steps: int) -> None:
    for code in codes:
        if not has_auxiliary(code):
            raise InputError(
                "A code for solver exact must hold its auxiliary, got one without. Encode the scan with "
                f"solver exact, or decode with another solver, such as {DEFAULT_SOLVER}."
            )
        encoded = int(code.auxiliary[STEPS])
        if encoded != steps:
            raise InputError(
                f"steps must be {encoded}, as the code was encoded by solver exact, got {steps}. Decode it "
                f"in {encoded} steps, or with another solver, such as {DEFAULT_SOLVER}."
            )
