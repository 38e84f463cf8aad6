# SPDX-License-Identifier: Apache-2.0
"""Items side by side in processes, so that one that kills its own does not take the others along."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from tqdm import tqdm

Task = TypeVar("Task")
Result = TypeVar("Result")


def each(
    compute: Callable[[Task], Result],
    tasks: Sequence[Task],
    *,
    jobs: int,
    lost: Callable[[Task], Result],
    name: str,
    progress: bool,
) -> list[Result]:
    """What `compute` makes of each task, in their order.

    Args:
        compute: Works on one task; picklable.
        tasks: What to work on.
        jobs: Processes; with 1 everything happens in this one.
        lost: The result of a task that brought its process down.
        name: Title of the bar.
        progress: Show a bar.
    """
    if jobs == 1 or len(tasks) < 2:
        return [compute(task) for task in tqdm(tasks, desc=name, disable=not progress)]
    results: dict[int, Result] = {}
    with tqdm(total=len(tasks), desc=name, disable=not progress) as bar:
        for index, result in _together(compute, tasks, jobs=min(jobs, len(tasks))):
            results[index] = result
            bar.update()
        for index in sorted(set(range(len(tasks))) - set(results)):
            alone = dict(_together(compute, [tasks[index]], jobs=1))
            results[index] = alone[0] if alone else lost(tasks[index])
            bar.update()
    return [results[index] for index in range(len(tasks))]


def _together(
    compute: Callable[[Task], Result], tasks: Sequence[Task], *, jobs: int
) -> Iterator[tuple[int, Result]]:
    """Results as they come; none any more once a process has died."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=spawn, initializer=_end_with_parent) as pool:
        futures = {pool.submit(compute, task): index for index, task in enumerate(tasks)}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool:
            return
        except BaseException:
            # who ends the command waits for no task, neither begun nor queued
            for process in multiprocessing.active_children():
                process.kill()
            raise


def _end_with_parent() -> None:
    """End this process where its parent is killed: nobody takes its results, and it would wait for ever."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
