# SPDX-License-Identifier: Apache-2.0
"""How time and memory grow with the size of the scans and with the number of scans.

    python benchmarks/growth.py --out outputs/growth
    TMPDIR=/dev/shm python benchmarks/growth.py      # the same without the disk

Volumes go through the demo's autoencoder once to a latent and back. Cohorts are made up beforehand: their
table is read, checked and split, and for each scan latents of 3x8x10x8 are stored and the statistics of all
are measured. Time is that of the CPU, the kernel's share told apart, the least of five rounds over all sizes;
memory is measured for each size in a process of its own, after the smallest. Nothing is deleted before the
end: ext4 passes over the places of files deleted in the last minutes one by one, so that files written after
thousands were deleted cost the kernel several times as much. Writes growth.png and growth.json. What whole
commands take, `cohort_size.py` measures.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from training_step import arguments
from turns import Result, tell

from ldae.data.cohort import read_cohort, write_cohort
from ldae.data.latents import LatentStore
from ldae.data.split import split_hash, split_subjects
from ldae.nets.autoencoder import Autoencoder, AutoencoderConfig
from ldae.nets.blocks import to_channels_last

SIZES = ((32, 40, 32), (48, 60, 48), (64, 80, 64), (96, 120, 96), (128, 160, 128))
COHORTS = (100, 300, 1000, 3000, 10_000)
LATENT = (3, 8, 10, 8)
ROUNDS = 5  # the machine's speed drifts: sizes are compared within a round


def one_volume(size: tuple[int, int, int]) -> None:
    """A scan to a latent and back."""
    torch.manual_seed(0)
    net = Autoencoder(AutoencoderConfig(**arguments("aekl")["autoencoder"])).eval()
    to_channels_last(net)
    with torch.no_grad():
        net.decode(net.encode(torch.rand(1, 1, *size))[0])


def write_cohorts(folder: Path) -> None:
    """Cohorts of all sizes."""
    random = np.random.default_rng(0)
    for scans in COHORTS:
        frame = pd.DataFrame(
            {
                "subject": [f"sub-{number:05d}" for number in range(scans)],
                "session": "1",
                "path": [f"/scans/{number}.nii.gz" for number in range(scans)],
                "diagnosis": random.choice(["CN", "MCI", "AD"], scans),
                "age": random.uniform(55, 90, scans),
            }
        )
        write_cohort(frame, folder / f"{scans}.csv")


def cohort_table(scans: int, *, folder: Path) -> None:
    """Read, check and split a cohort."""
    frame = read_cohort(folder / f"{scans}.csv", check="table")
    frame["split"] = split_subjects(frame, seed=0)
    split_hash(frame)


def latent_store(scans: int, *, folder: Path) -> None:
    """Store latents and measure their statistics."""
    generator = torch.Generator().manual_seed(0)
    store = LatentStore(tempfile.mkdtemp(dir=folder), autoencoder="a", spec="b")
    keys = [f"{number:032d}" for number in range(scans)]
    for key in keys:
        store.write(key, torch.randn(LATENT, generator=generator), torch.ones(LATENT))
    store.compute_stats(keys)


def seconds_in_turns(work: Callable[[Any], None], sizes: Sequence[Any]) -> list[tuple[float, float]]:
    """Seconds of the CPU for each size, and how many of them were the kernel's: the least of some rounds."""
    torch.set_num_threads(1)
    work(sizes[0])  # libraries are imported now
    found = [(np.inf, np.inf)] * len(sizes)
    for _ in range(ROUNDS):
        for place, size in enumerate(sizes):
            start = resource.getrusage(resource.RUSAGE_SELF)
            work(size)
            end = resource.getrusage(resource.RUSAGE_SELF)
            kernel = end.ru_stime - start.ru_stime
            found[place] = min(found[place], (end.ru_utime - start.ru_utime + kernel, kernel))
    return found


def _memory(work: Callable[[Any], None], size: Any, smallest: Any) -> float:
    torch.set_num_threads(1)
    for _ in range(2):  # the second call of a network still takes room that later ones use again
        work(smallest)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    work(size)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def _alone(function: Callable[..., Any], *arguments: Any) -> Any:
    # spawned: what a forked process finds free in its parent's memory would not be counted
    with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        return pool.apply(function, arguments)


def measure(work: Callable[[Any], None], sizes: Sequence[Any]) -> list[tuple[float, float, float]]:
    """Seconds of each size, MiB at the most above those that the smallest took, and seconds of the kernel."""
    seconds = _alone(seconds_in_turns, work, sizes)
    mib = [_alone(_memory, work, size, sizes[0]) for size in sizes]
    return [(whole, most, kernel) for (whole, kernel), most in zip(seconds, mib, strict=True)]


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Exponent of growth, fitted to the three largest sizes."""
    return round(float(np.polyfit(np.log(sizes[-3:]), np.log(values[-3:]), 1)[0]), 2)


def draw(curves: dict[str, tuple[Sequence[float], list[tuple[float, float, float]]]], path: Path) -> None:
    """Time above, memory below; the grey line grows as the size does."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, len(curves), figsize=(4 * len(curves), 6), layout="constrained")
    for column, (name, (sizes, points)) in enumerate(curves.items()):
        for row, label in enumerate(("seconds", "MiB above the smallest")):
            values = [max(point[row], 1e-3 if row == 0 else 0.1) for point in points]
            axis = axes[row, column]
            axis.loglog(sizes, values, "o-")
            linear = [values[-1] * size / sizes[-1] for size in sizes]
            axis.loglog(sizes, linear, color="0.7", linestyle="--", label="as the size does")
            axis.set_ylabel(label)
            axis.set_ylim(bottom=min(*values, *linear) / 2, top=2 * max(values))
        axes[0, column].set_title(name)
        axes[1, column].set_xlabel("voxels" if name == "autoencoder" else "scans")
    axes[0, 0].legend(frameon=False)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("outputs/growth"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    os.environ["OMP_NUM_THREADS"] = "1"
    voxels = [float(np.prod(size)) for size in SIZES]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_cohorts(folder)
        curves: dict[str, tuple[Sequence[float], list[tuple[float, float, float]]]] = {
            "autoencoder": (voxels, measure(one_volume, SIZES)),
            "cohort table": (COHORTS, measure(partial(cohort_table, folder=folder), COHORTS)),
            "latent store": (COHORTS, measure(partial(latent_store, folder=folder), COHORTS)),
        }
    draw(curves, args.out / "growth.png")
    result: Result = {
        name: {
            "sizes": list(sizes),
            "seconds": [round(point[0], 4) for point in points],
            "of_them_in_the_kernel": [round(point[2], 4) for point in points],
            "mib": [round(point[1], 1) for point in points],
            "exponent_of_seconds": slope(sizes, [point[0] for point in points]),
            "exponent_without_the_kernel": slope(sizes, [point[0] - point[2] for point in points]),
        }
        for name, (sizes, points) in curves.items()
    }
    tell(result, out=args.out / "growth.json")


if __name__ == "__main__":
    main()
