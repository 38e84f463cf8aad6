# SPDX-License-Identifier: Apache-2.0
"""Two things timed in turns in one process, and what this machine can do at most."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

Result = dict[str, object]


def in_turns(works: Mapping[str, Callable[[], object]], *, repeats: int) -> dict[str, list[float]]:
    """Seconds of each piece of work, each run once unmeasured and then `repeats` times in turns.

    A busy machine slows all of them.
    """
    for work in works.values():
        work()
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            taken[name].append(seconds(work))
    return taken


def seconds(work: Callable[[], object]) -> float:
    """Seconds of one run."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def operations(work: Callable[[], object]) -> int:
    """Floating point operations of the matrix products and convolutions of a piece of work."""
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def ratio(slow: Sequence[float], fast: Sequence[float]) -> list[float]:
    """How many times longer one takes than the other, turn by turn: median, smallest and largest."""
    ratios = np.asarray(slow) / np.asarray(fast)
    return [round(float(value), 2) for value in (np.median(ratios), ratios.min(), ratios.max())]


def memory_rate(*, megabytes: int = 256) -> float:
    """Bytes a second that one thread copies, read and written bytes both counted."""
    source = np.ones(megabytes * 2**20, dtype=np.uint8)
    target = np.empty_like(source)
    taken = in_turns({"copy": lambda: np.copyto(target, source)}, repeats=5)["copy"]
    return 2 * source.nbytes / min(taken)


def matrix_rate(*, side: int = 1024, dtype: torch.dtype = torch.float32) -> float:
    """Floating point operations a second of a large matrix product."""
    a = torch.ones(side, side, dtype=dtype)
    taken = in_turns({"product": lambda: a @ a}, repeats=5)["product"]
    return 2 * side**3 / min(taken)


def machine() -> Result:
    """What it was measured on."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "date": date.today().isoformat(),
        "processor": names[0] if names else platform.processor(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "not measured",
    }


def tell(result: Result, *, out: Path | None) -> None:
    """Print a result, and write it where asked."""
    text = json.dumps(machine() | result, indent=1)
    print(text)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text + "\n")
