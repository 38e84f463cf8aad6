# SPDX-License-Identifier: Apache-2.0
"""Random draws that belong to a scan, whatever batch it comes in."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray


def row_generators(rows: NDArray[np.float64], *, seed: int) -> Iterator[np.random.Generator]:
    """A generator for each row [N, D], from a seed and the row's own numbers alone."""
    key = seed.to_bytes(8, "little")
    for row in rows + 0.0:  # -0.0 is 0.0
        digest = blake2b(row.tobytes(), key=key, digest_size=16).digest()
        yield np.random.default_rng(int.from_bytes(digest, "little"))
