# SPDX-License-Identifier: Apache-2.0
"""Reading while something else computes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


def read_ahead(read: Callable[[ItemT], ResultT], items: Iterable[ItemT]) -> Iterator[ResultT]:
    """What `read` makes of each item, in order; the next one is read while the caller works on this one.

    Example:
        >>> list(read_ahead(str.upper, ["a", "b"]))
        ['A', 'B']
    """
    with ThreadPoolExecutor(max_workers=1) as pool:
        current: Future[ResultT] | None = None
        for item in items:
            following = pool.submit(read, item)
            if current is not None:
                yield current.result()
            current = following
        if current is not None:
            yield current.result()
