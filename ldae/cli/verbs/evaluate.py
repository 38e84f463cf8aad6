# SPDX-License-Identifier: Apache-2.0
"""`ldae evaluate`."""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path

from ldae.cli.options import DEFAULT_STEPS, SPLITS, add_device, add_run_dir, add_seed, positive
from ldae.cli.scans import show_progress

HELP = "measure a trained pipeline on held-out scans"
NAMES = {
    "reconstruction": "how like the scans their reconstructions are",
    "code": "whether the semantic code is used, and what it holds",
    "counterfactual": "whether the anatomy follows the target",
    "interpolation": "whether the middle of three visits lies between the outer two",
}
EPILOG = "\n".join(["names:", *(f"  {name:16}{what}" for name, what in NAMES.items())])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("name", choices=tuple(NAMES), metavar="NAME", help="what to measure, see below")
    add_run_dir(parser)
    parser.add_argument("--pipeline", type=Path, metavar="DIR", help="default: pipeline of the run")
    parser.add_argument("--cohort", type=Path, metavar="CSV", help="default: cohort/cohort.csv of the run")
    parser.add_argument("--split", choices=SPLITS, default="test", help="scans to measure on (default: test)")
    parser.add_argument("--head", type=Path, metavar="DIR", help="default: heads/diagnosis of the run")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: evaluation/NAME of the run")
    parser.add_argument(
        "--steps",
        type=positive,
        default=DEFAULT_STEPS,
        metavar="N",
        help="network calls each way (default: 20)",
    )
    add_seed(parser)
    add_device(parser)


def run(args: argparse.Namespace) -> int:
    """Measure."""
    evaluate = getattr(import_module(f"ldae.evaluation.{args.name}"), f"evaluate_{args.name}")
    head = (
        {"head": args.head or args.run_dir / "heads" / "diagnosis"} if args.name == "counterfactual" else {}
    )
    folder = evaluate(
        args.pipeline or args.run_dir / "pipeline",
        args.cohort or args.run_dir / "cohort" / "cohort.csv",
        out=args.out or args.run_dir / "evaluation" / args.name,
        split=args.split,
        steps=args.steps,
        seed=args.seed,
        device=args.device,
        progress=show_progress(),
        **head,
    )
    print(f"Wrote {folder}")
    return 0
