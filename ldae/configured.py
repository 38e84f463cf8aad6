# SPDX-License-Identifier: Apache-2.0
"""What a configuration may ask for: numbers within their range, and what can be built."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from ldae.errors import CheckpointError, InputError

Bounds = Mapping[str, float]


def check_numbers(
    config: object, name: str, *, least: Bounds, most: Bounds | None = None, below: Bounds | None = None
) -> None:
    """Stop on a number of a configuration that is out of its range.

    Args:
        config: The configuration. Of a tuple each number counts, and where they start at 1 there must be one;
            None is no number.
        name: What it is called in configuration files.
        least: The smallest that each key takes; all keys of the other two are among its own.
        most: The largest.
        below: What it must stay below.

    Raises:
        InputError: A number is out of its range, or there is none where there must be one or more.
    """
    for key, smallest in least.items():
        value = getattr(config, key)
        numbers = value if isinstance(value, tuple | list) else () if value is None else (value,)
        largest, limit = (most or {}).get(key, math.inf), (below or {}).get(key, math.inf)
        if smallest >= 1 and value is not None and not numbers:
            raise InputError(f"{name}.{key} must have one number or more, got none.")
        if all(smallest <= number <= largest and number < limit for number in numbers):
            continue
        upper = f" and at most {largest:g}" if largest < math.inf else ""
        upper += f" and below {limit:g}" if limit < math.inf else ""
        raise InputError(f"{name}.{key} must be at least {smallest:g}{upper}, got {value}.")


@contextmanager
def buildable(what: str) -> Iterator[None]:
    """Put into words what the code of networks raises on settings that they cannot be built with.

    Args:
        what: What is built, and what its settings must be.

    Raises:
        InputError: In place of what the networks' own code raises.
    """
    try:
        yield
    except (InputError, CheckpointError):
        raise
    except (
        LookupError,
        TypeError,
        ValueError,
        ArithmeticError,
        RuntimeError,
        AttributeError,
        AssertionError,
    ) as error:
        if type(error).__name__ == "OutOfMemoryError":  # torch's, of a GPU: no setting is to blame
            raise
        first = _first_cause(error)
        reason = " ".join(str(first).split())[:300].rstrip(".")
        raise InputError(
            f"{what}, got {type(first).__name__}: {reason}. `ldae fit --print_config` shows all keys."
        ) from error


def _first_cause(error: BaseException) -> BaseException:
    """What was raised first: a parser wraps what a class raises in the names of all that it tried."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
