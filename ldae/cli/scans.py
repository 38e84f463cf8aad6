# SPDX-License-Identifier: Apache-2.0
"""From the words of the scan verbs to the functions that do the work, and from their result to words."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from ldae.data.artefact import read_json
from ldae.errors import InputError

if TYPE_CHECKING:
    from ldae.pipeline import LDAEPipeline
    from ldae.pipeline.scan_jobs import InputScan, JobResult, Sampling


def show_progress() -> bool:
    """Whether somebody is looking: a bar in a log file helps nobody."""
    return sys.stderr.isatty()


def check_choice(args: argparse.Namespace) -> None:
    """Stop where a verb got neither scans nor a cohort, or both.

    Raises:
        InputError: It says which.
    """
    if bool(args.scans) == (args.cohort is not None):
        got = "both" if args.scans else "neither"
        raise InputError(f"Scans must be given as paths or by --cohort, got {got}. Give one of the two.")


def read_scans(args: argparse.Namespace) -> list[InputScan]:
    """The scans that a verb was given, by path or by cohort."""
    from ldae.pipeline.scan_jobs import gather_scans

    return gather_scans(args.scans, cohort=args.cohort, split=args.split)


def load_pipeline(args: argparse.Namespace) -> LDAEPipeline:
    """The pipeline on the device that was asked for."""
    from ldae.pipeline import LDAEPipeline

    return LDAEPipeline.from_pretrained(args.pipeline, device=args.device)


def read_sampling(args: argparse.Namespace) -> Sampling:
    """Steps each way and solver."""
    from ldae.pipeline.scan_jobs import Sampling

    return Sampling(
        steps=args.encode_steps or args.steps,
        decode_steps=args.decode_steps or args.steps,
        solver=args.solver,
        stop_fraction=getattr(args, "stop_fraction", 0.0),
    )


def tell(result: JobResult) -> int:
    """Say how unusual each source is, what was done to it and written, and where the record lies."""
    for source, novelty in result.novelty.items():
        for item in result.changes[source]:
            print(f"{source}: {item.item} {item.scan}, the pipeline's is {item.spec}: {item.action}")
        print(f"{source}: {novelty.verdict}")
    document, folder = read_json(result.result), result.result.parent
    for output in document["outputs"]:
        print(f"wrote {folder / output['path']}{_head(output)}{_nearest(output)}")
    for path in result.maps:
        print(f"wrote {path}")
    print(f"listed in {result.result}")
    return 0


def _head(output: dict[str, Any]) -> str:
    if "HeadAfter" not in output:
        return ""
    held = [f"{one['Name']} held: {_changes(one)}" for one in output["Hold"]]
    says = f"the head says {output['HeadAfter']:.3g}, before {output['HeadBefore']:.3g}"
    return "".join(f"; {words}" for words in (says, *held, output["Verdict"]))


def _nearest(output: dict[str, Any]) -> str:
    near = output.get("NearestTrainingScan")
    if near is None:
        return ""
    return (
        f"; nearest training scan {near['Subject']} {near['Session']}, code distance {near['Distance']:.3g}"
    )


def _changes(held: dict[str, Any]) -> str:
    pairs = [(name, value, held["After"][name]) for name, value in held["Before"].items()]
    if len(pairs) == 1:
        return f"{pairs[0][1]:.4g}, now {pairs[0][2]:.4g}"
    return ", ".join(f"{name} {before:.4g}, now {after:.4g}" for name, before, after in pairs)
