# SPDX-License-Identifier: Apache-2.0
"""What one forward and one backward pass at published size, 128x160x128, take on a CPU.

    python benchmarks/published_size.py

A batch of one random scan goes through the networks of each published configuration, in bf16 as these say,
in a process of its own. `resident_gib` is the most that process held; `foretold_gib` is what
`ldae doctor --memory` finds without running anything: weights, gradients and what is alive at the worst
moment, without Python with its libraries and what convolutions keep to themselves. What is foretold to need
more than 20 GiB is not run. `floor_seconds` are the pass's multiplications and additions, none of them twice,
at the machine's rate for a large matrix product in the same precision. A CPU without bf16 units is several
times faster with `--precision 32`, which needs more memory.

    python benchmarks/published_size.py --turns 3 --batch 2

lets the same networks pass in float32 and in bf16 in turns: `float32_over_bf16` is how many times longer
float32 takes, `loss_apart` how far the two losses lie apart on the same noise, relative to the loss. The
output layers are not zero there, as after the first steps.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from turns import Result, in_turns, matrix_rate, operations, ratio, tell

from ldae.cli.configs import find_config, read_configs
from ldae.evaluation.memory import build_stage, measure_need
from ldae.nets.cpu_convolutions import fit_to_cpu
from ldae.nets.unet import UpPath

CONFIGS = {"autoencoder": "aekl", "denoiser": "ldae_pretrain", "representation": "ldae_repr_learn"}
GIB = 2**30
LIMIT_GIB = 20


def models() -> tuple[dict[str, Any], tuple[int, int, int]]:
    """The published arguments of each stage's model, and the size of the scans."""
    documents = {
        stage: read_configs([find_config(f"{name}.yaml"), find_config(f"published/{name}.yaml")])
        for stage, name in CONFIGS.items()
    }
    x, y, z = documents["autoencoder"]["data"]["init_args"]["size"]
    return {stage: document["model"]["init_args"] for stage, document in documents.items()}, (x, y, z)


def prepared(stage: str, switched: bool) -> Any:
    """The published networks of a stage, laid out as its training does."""
    torch.manual_seed(0)
    arguments, size = models()
    built = build_stage(stage, arguments, size=size, switched=switched)
    for module in (*built.trained, *built.frozen):
        fit_to_cpu(module)
    return built


def there_and_back(built: Any, half: bool, batch: int = 1) -> Tensor:
    """Forward and backward once, a batch of random scans; the loss."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        loss = built.loss(batch)
    loss.backward()
    found: Tensor = loss.detach()
    return found


def one_pass(stage: str, switched: bool, half: bool) -> dict[str, Any]:
    """Forward and backward once; seconds and the most memory that this process held."""
    built = prepared(stage, switched)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    there_and_back(built, half)
    seconds = time.perf_counter() - start
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    weights = [p for module in built.trained for p in module.parameters()]
    return {
        "seconds": round(seconds, 1),
        "with_weights_gib": round(before * 1024 / GIB, 2),
        "resident_gib": round(most / GIB, 2),
        "within_limit": most <= LIMIT_GIB * GIB,
        "finite_gradients": all(bool(p.grad.isfinite().all()) for p in weights if p.grad is not None),
    }


def both_precisions(stage: str, switched: bool, turns: int, batch: int) -> dict[str, Any]:
    """The same networks in float32 and in bf16, in turns."""
    built = prepared(stage, switched)
    for module in (*built.trained, *built.frozen):
        for part in module.modules():
            if isinstance(part, UpPath):
                nn.init.normal_(part.output.weight, std=0.01)
    losses: dict[str, float] = {}

    def work(half: bool) -> None:
        torch.manual_seed(1)
        losses["bf16" if half else "float32"] = float(there_and_back(built, half, batch))

    taken = in_turns({"float32": lambda: work(False), "bf16": lambda: work(True)}, repeats=turns)
    apart = abs(losses["bf16"] - losses["float32"]) / losses["float32"]
    return {
        "batch": batch,
        "seconds": {name: round(min(times), 2) for name, times in taken.items()},
        "float32_over_bf16": ratio(taken["float32"], taken["bf16"]),
        "loss_apart": float(f"{apart:.1e}"),
    }


def foretold(stage: str, switched: bool, half: bool) -> dict[str, Any]:
    """What `ldae doctor --memory` says of the same pass; no optimiser, no average."""
    arguments, size = models()
    need = measure_need(stage, arguments, size=size, batch=1, switched=switched, half=half)
    weights = need.trained + need.frozen
    with torch.device("meta"):
        built = build_stage(stage, arguments, size=size)
    with FakeTensorMode(allow_non_fake_inputs=True):
        for module in (*built.trained, *built.frozen):
            module.to_empty(device="cpu")
        flop = operations(lambda: there_and_back(built, half))
    rate = matrix_rate(dtype=torch.bfloat16 if half else torch.float32)
    return {
        "floor_seconds": round(flop / rate, 2),
        "million_weights": round(weights / 1e6, 1),
        "foretold_gib": round((4 * weights + need.step_bytes) / GIB, 2),
    }


def apart(work: Callable[..., dict[str, Any]], arguments: tuple[object, ...]) -> dict[str, Any]:
    """The result of a process of its own, which starts with little memory."""
    with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        return pool.apply(work, arguments)


def sizes(stage: str, half: bool) -> Result:
    """Memory and time of a stage, as foretold and as measured."""
    found: Result = {}
    for switched in (False,) if stage == "denoiser" else (False, True):
        told = apart(foretold, (stage, switched, half))
        if told["foretold_gib"] <= LIMIT_GIB:
            told |= apart(one_pass, (stage, switched, half))
        found[stage + (", recomputing" if switched else "")] = told
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stage", choices=tuple(CONFIGS), nargs="*", default=list(CONFIGS))
    parser.add_argument("--precision", choices=("bf16", "32"), default="bf16")
    parser.add_argument("--turns", type=int, help="passes in each precision, in turns, in place of the sizes")
    parser.add_argument("--batch", type=int, default=1, help="scans of a pass with --turns")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    result: Result = {} if args.turns else {"precision": args.precision, "limit_gib": LIMIT_GIB}
    for stage in args.stage:
        found: Result
        if args.turns:
            found = {stage: apart(both_precisions, (stage, stage != "denoiser", args.turns, args.batch))}
        else:
            found = sizes(stage, args.precision == "bf16")
        print(found, flush=True)
        result |= found
    tell(result, out=args.out)


if __name__ == "__main__":
    main()
