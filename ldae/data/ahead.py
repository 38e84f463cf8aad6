# SPDX-License-Identifier: Apache-2.0
"""Reading while something else computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


def read_ahead(
    read: Callable[[ItemT], ResultT], items: Iterable[ItemT], *, jobs: int = 1, ahead: int = 1
) -> Iterator[ResultT]:
    """What `read` makes of each item, in order; the next ones are read while the caller works on this one.

    Args:
        read: What is done to an item, in another thread.
        items: What is to be read, of any number.
        jobs: Threads.
        ahead: Items that are read at most before the caller asks for them.

    Example:
        >>> list(read_ahead(str.upper, ["a", "b"]))
        ['A', 'B']
    """
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        under_way: deque[Future[ResultT]] = deque()
        for item in items:
            under_way.append(pool.submit(read, item))
            if len(under_way) > ahead:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
