# SPDX-License-Identifier: Apache-2.0
"""How long encoding, decoding and embedding take with a trained pipeline.

    python benchmarks/inference.py --run-dir outputs/demo

A scan is encoded to both codes and decoded again. The plain form takes 50 DDIM steps each way in float32;
the default solver takes the fewest steps whose SSIM to the autoencoder's own reconstruction is, on average
over the scans, at most 0.001 below that of the plain form. The two are timed in turns on one scan. The
floor is the time that their multiplications and additions alone take at the machine's rate for a large
matrix product; `share_of_matrix_peak` is the floor over the time taken. To the floor of `embed` and `latents`
belong the bytes of the cache too, at the rate at which the machine copies memory.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from turns import Result, in_turns, matrix_rate, memory_rate, operations, ratio, tell

from ldae.data.ahead import read_ahead
from ldae.diffusion.samplers import Solver
from ldae.evaluation.image_metrics import ssim
from ldae.evaluation.material import Material, ScanSet, first_visits, open_scans
from ldae.pipeline.pipeline import LDAEPipeline
from ldae.pipeline.run_cohort import read_volumes

PLAIN_STEPS = 50
CANDIDATES = (3, 4, 5, 6, 8, 10, 15, 20, 30)
TOLERANCE = 0.001
BATCH = 8
CACHE_BYTES = 6
"""Of a cached voxel: two are read, four written."""


def there_and_back(pipe: LDAEPipeline, volumes: Tensor, *, steps: int, solver: Solver) -> Tensor:
    """Scans from their two codes."""
    semantic, noise = pipe.encode_tensors(volumes, steps=steps, solver=solver)
    return pipe.decode_tensors(semantic, noise, steps=steps, solver=solver)


def quality(pipe: LDAEPipeline, volumes: Tensor, *, steps: int, solver: Solver) -> float:
    """Mean SSIM to what the autoencoder alone makes of the scans."""
    target = pipe.networks.expand(pipe.networks.compress(volumes))
    found = there_and_back(pipe, volumes, steps=steps, solver=solver)
    return float(ssim(found, target).mean())


def fewest_steps(pipe: LDAEPipeline, volumes: Tensor, *, enough: float) -> tuple[int, float]:
    """Steps of the default solver, and their SSIM; the last candidate if none is enough."""
    for steps in CANDIDATES:
        found = quality(pipe, volumes, steps=steps, solver="gaussian-2m")
        if found >= enough:
            break
    return steps, found


def measure_one(pipe: LDAEPipeline, volumes: Tensor, *, repeats: int) -> Result:
    """One scan there and back."""
    plain = quality(pipe, volumes, steps=PLAIN_STEPS, solver="ddim")
    steps, ours = fewest_steps(pipe, volumes, enough=plain - TOLERANCE)
    one = volumes[:1]
    works = {
        "plain": lambda: there_and_back(pipe, one, steps=PLAIN_STEPS, solver="ddim"),
        "default": lambda: there_and_back(pipe, one, steps=steps, solver="gaussian-2m"),
    }
    taken = in_turns(works, repeats=repeats)
    peak = matrix_rate()
    floors = {name: operations(work) / peak for name, work in works.items()}
    return {
        "matrix_gflop_per_second": round(peak / 1e9, 1),
        "floor_ms": {name: round(1e3 * floor, 1) for name, floor in floors.items()},
        "share_of_matrix_peak": {name: round(floor / min(taken[name]), 2) for name, floor in floors.items()},
        "plain_ssim": round(plain, 4),
        "default_steps": steps,
        "default_ssim": round(ours, 4),
        "plain_ms": round(1e3 * min(taken["plain"]), 1),
        "default_ms": round(1e3 * min(taken["default"]), 1),
        "plain_over_default": ratio(taken["plain"], taken["default"]),
    }


def measure_batches(pipe: LDAEPipeline, volumes: Tensor, *, steps: int, repeats: int) -> Result:
    """Scans one by one against all in one call, and how far their codes are apart."""

    def encode(chunk: Tensor) -> tuple[Tensor, Tensor]:
        return pipe.encode_tensors(chunk, steps=steps)

    singly = [encode(one) for one in volumes.split(1)]
    together = encode(volumes)
    apart = [
        float((torch.cat([codes[part] for codes in singly]) - together[part]).abs().max()) for part in (0, 1)
    ]
    taken = in_turns(
        {
            "singly": lambda: [
                there_and_back(pipe, one, steps=steps, solver="gaussian-2m") for one in volumes.split(1)
            ],
            "together": lambda: there_and_back(pipe, volumes, steps=steps, solver="gaussian-2m"),
        },
        repeats=repeats,
    )
    return {
        "batch": len(volumes),
        "there_and_back_scans_per_second": round(len(volumes) / min(taken["together"]), 2),
        "singly_over_together": ratio(taken["singly"], taken["together"]),
        "largest_difference_of_codes": apart,
    }


def measure_reading(found: ScanSet, paths: list[str], *, repeats: int) -> Result:
    """Codes and latents of many scans, with the next ones read meanwhile and without."""
    networks = found.pipeline.networks
    parts = [paths[start : start + BATCH] for start in range(0, len(paths), BATCH)]

    def read(part: list[str]) -> Tensor:
        return read_volumes(found.cache, part)

    def from_file(part: list[str]) -> Tensor:
        return torch.stack([found.pipeline.spec.apply(path).data for path in part])

    taken = in_turns(
        {
            "embed": lambda: [networks.describe(volumes) for volumes in read_ahead(read, parts)],
            "latents": lambda: [networks.compress(volumes) for volumes in read_ahead(read, parts)],
            "embed_from_files": lambda: [networks.describe(v) for v in read_ahead(from_file, parts)],
            "embed_from_files_in_sequence": lambda: [networks.describe(from_file(part)) for part in parts],
        },
        repeats=repeats,
    )
    speeds = {f"{name}_scans_per_second": round(len(paths) / min(times), 1) for name, times in taken.items()}
    first = read(parts[0])
    copied = CACHE_BYTES * first.numel() / memory_rate()
    works = {"embed": networks.describe, "latents": networks.compress}
    floors = {
        name: (operations(partial(work, first)) / matrix_rate() + copied) / len(first)
        for name, work in works.items()
    }
    speeds |= {f"{name}_floor_ms_per_scan": round(1e3 * floor, 2) for name, floor in floors.items()}
    speeds |= {
        f"{name}_share_of_floor": round(floor * len(paths) / min(taken[name]), 2)
        for name, floor in floors.items()
    }
    gain = ratio(taken["embed_from_files_in_sequence"], taken["embed_from_files"])
    return {**speeds, "in_sequence_over_ahead": gain}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run-dir", type=Path, default=Path("outputs/demo"))
    parser.add_argument("--scans", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    args = parser.parse_args()
    run = args.run_dir
    material = Material.of(run / "pipeline", run / "cohort" / "cohort.csv", out=run, run_dir=run)
    found = open_scans(material)
    rows = first_visits(found.rows, limit=args.scans)
    volumes = found.volumes(rows)
    result = measure_one(found.pipeline, volumes, repeats=args.repeats)
    steps = int(str(result["default_steps"]))
    result |= measure_batches(found.pipeline, volumes[:BATCH], steps=steps, repeats=args.repeats)
    result |= measure_reading(found, list(rows["path"]), repeats=args.repeats)
    tell(result, out=args.out)


if __name__ == "__main__":
    main()
