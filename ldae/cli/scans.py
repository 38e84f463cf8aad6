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
    """Say how unusual each source is, what was written, and where the record lies."""
    for source, novelty in result.novelty.items():
        print(f"{source}: {novelty.verdict}")
    for output in read_json(result.result)["outputs"]:
        print(f"wrote {output['path']}{_head(output)}")
    print(f"listed in {result.result}")
    return 0


def _head(output: dict[str, Any]) -> str:
    if "HeadAfter" not in output:
        return ""
    return (
        f"; the head says {output['HeadAfter']:.3g}, before {output['HeadBefore']:.3g}; {output['Verdict']}"
    )
