# SPDX-License-Identifier: Apache-2.0
"""`ldae evaluate`."""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path

from ldae.cli.options import SOLVERS, SPLITS, add_device, add_run_dir, add_seed, positive
from ldae.cli.scans import show_progress

HELP = "measure a trained pipeline on held-out scans"
NAMES = {
    "reconstruction": "how like the scans their reconstructions are, with and without the stochastic code",
    "code": "whether the semantic code is used: the error with the right one, another's and none",
    "comparison": "probes of the code against the same probes of the voxels",
    "counterfactual": "whether the anatomy follows the target",
    "interpolation": "whether the middle of three visits lies between the outer two",
    "calibration": "whether a head knows when it does not know: calibration, conformal sets, referral",
}
SAMPLING = ("split", "steps", "decode_steps", "solver", "limit")
OPTIONS = {
    "reconstruction": SAMPLING,
    "code": ("split", "steps", "limit"),
    "comparison": (),
    "counterfactual": (*SAMPLING, "hold", "thorough"),
    "interpolation": (*SAMPLING, "thorough"),
    "calibration": ("split", "by"),
}
HEADED = ("counterfactual", "calibration")
EPILOG = "\n".join(["names:", *(f"  {name:16}{what}" for name, what in NAMES.items())])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options; what is left out is as each measurement has it."""
    parser.add_argument("name", choices=tuple(NAMES), metavar="NAME", help="what to measure, see below")
    add_run_dir(parser)
    parser.add_argument("--pipeline", type=Path, metavar="DIR", help="default: pipeline of the run")
    parser.add_argument("--cohort", type=Path, metavar="CSV", help="default: cohort/cohort.csv of the run")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: evaluation/NAME of the run")
    parser.add_argument("--head", type=Path, metavar="DIR", help="default: heads/diagnosis of the run")
    parser.add_argument("--split", choices=SPLITS, help="scans to measure on (default: test)")
    parser.add_argument("--steps", type=positive, metavar="N", help="network calls from scan to noise")
    parser.add_argument("--decode-steps", type=positive, metavar="N", help="network calls from noise to scan")
    parser.add_argument("--solver", choices=SOLVERS, help="of the way to noise")
    parser.add_argument(
        "--hold",
        type=Path,
        action="append",
        metavar="DIR",
        help="head whose output should stay; may be repeated (default: heads/age of the run, if it is there)",
    )
    parser.add_argument(
        "--thorough",
        action="store_true",
        default=None,
        help="compare more scans of a synthetic cohort with the truth, in more ways",
    )
    parser.add_argument(
        "--by", metavar="COLUMN", help="conformal sets that hold within its values, such as site"
    )
    parser.add_argument("--limit", type=positive, metavar="N", help="so many subjects at most")
    add_seed(parser)
    add_device(parser)


def run(args: argparse.Namespace) -> int:
    """Measure."""
    evaluate = getattr(import_module(f"ldae.evaluation.{args.name}"), f"evaluate_{args.name}")
    options = {name: getattr(args, name) for name in OPTIONS[args.name] if getattr(args, name) is not None}
    if args.name in HEADED:
        options["head"] = args.head or args.run_dir / "heads" / "diagnosis"
    if args.name == "counterfactual":
        others = [args.run_dir / "heads" / "age"]
        options["hold"] = args.hold or [folder for folder in others if folder.is_dir()]
    folder = evaluate(
        args.pipeline or args.run_dir / "pipeline",
        args.cohort or args.run_dir / "cohort" / "cohort.csv",
        out=args.out or args.run_dir / "evaluation" / args.name,
        run_dir=args.run_dir,
        seed=args.seed,
        device=args.device,
        progress=show_progress(),
        **options,
    )
    print(f"Wrote {folder}")
    return 0
