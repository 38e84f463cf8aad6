# SPDX-License-Identifier: Apache-2.0
"""One of several equal parts of a cohort, for the jobs of an array."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from ldae.errors import InputError


@dataclass(frozen=True)
class Shard:
    """Every `count`-th scan, beginning with the one of its number.

    Attributes:
        number: 1 to `count`.
        count: Number of parts.
    """

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """A part as it is written, such as "2/8".

        Raises:
            InputError: It is not a part of at least one.
        """
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise InputError(f"shard must be a part such as 2/8, from 1/8 to 8/8, got {text!r}.")
        return cls(int(found[1]), int(found[2]))

    @property
    def places(self) -> slice:
        """The places of its scans in the cohort."""
        return slice(self.number - 1, None, self.count)

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"
