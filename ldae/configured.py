# SPDX-License-Identifier: Apache-2.0
"""What a configuration may ask for: numbers within their range, and what can be built."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from traceback import extract_tb

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
        upper = " and finite" if math.inf in numbers else ""
        upper += f" and at most {largest:g}" if largest < math.inf else ""
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
        AssertionError,
    ) as error:
        # torch's, of a GPU and of a processor: no setting is to blame
        if type(error).__name__ == "OutOfMemoryError" or "allocate memory" in str(error):
            raise
        reason = " ".join(str(error).split())[:300].rstrip(".")
        frame = extract_tb(error.__traceback__)[-1]
        place = f"{Path(frame.filename).name}, line {frame.lineno}"
        raise InputError(
            f"{what}, got {type(error).__name__}: {reason} ({place}). "
            "`ldae fit --print_config` shows all keys."
        ) from error
