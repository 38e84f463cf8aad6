# SPDX-License-Identifier: Apache-2.0
"""`ldae evaluate`."""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path
from typing import Any

from ldae.cli.options import SOLVERS, SPLITS, add_device, add_run_dir, add_seed, positive
from ldae.cli.scans import show_progress
from ldae.data.artefact import read_json
from ldae.errors import InputError

HELP = "measure a trained pipeline on held-out scans"
NAMES = {
    "reconstruction": "how like the scans their reconstructions are, with and without the stochastic code",
    "code": "whether the semantic code is used: the error with the right one, another's and none",
    "comparison": "probes of the code against the same probes of the voxels",
    "counterfactual": "whether the anatomy follows the target",
    "interpolation": "whether the middle of three visits lies between the outer two",
    "calibration": "whether a head knows when it does not know: calibration, conformal sets, referral",
    "explanation": "which voxels, slices and numbers of the code make a head say what it says",
    "robustness": "every head on corrupted and attacked scans, and on scans that no head was made for",
    "sites": "what heads are worth at a site that they have not seen: one after another is left out",
    "sampling": "whether drawn scans are like real ones, as various, and not copies",
}
SAMPLING = ("split", "steps", "decode_steps", "solver", "limit")
OPTIONS = {
    "reconstruction": SAMPLING,
    "code": ("split", "steps", "limit"),
    "comparison": (),
    "counterfactual": (*SAMPLING, "hold", "thorough", "target_class"),
    "interpolation": (*SAMPLING, "thorough"),
    "calibration": ("split", "by"),
    "explanation": (*SAMPLING, "target_class"),
    "robustness": ("target", "quick"),
    "sites": ("target", "by", "compared", "context", "quick"),
    "sampling": ("split", "decode_steps", "solver", "limit"),
}
HEADED = ("counterfactual", "calibration", "explanation")
SWEEP = "solvers"
DRAWN = "robustness"
SEVERAL = {"solver": "solvers", "steps": "steps", "decode_steps": "decode_steps"}
"""What a sweep takes several of: the option, and what the sweep calls it."""
EPILOG = "\n".join(
    [
        "names:",
        *(f"  {name:16}{what}" for name, what in NAMES.items()),
        "",
        "evaluate reconstruction --sweep writes evaluation/solvers: every --solver by every pair of --steps",
        "and --decode-steps, all of them unless named, on 4 subjects unless --limit says otherwise. Several",
        "values of one of the three are a sweep too. One that was stopped goes on where it was.",
    ]
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options; what is left out is as each measurement has it."""
    parser.add_argument("name", choices=tuple(NAMES), metavar="NAME", help="what to measure, see below")
    add_run_dir(parser)
    parser.add_argument("--pipeline", type=Path, metavar="DIR", help="default: pipeline of the run")
    parser.add_argument("--cohort", type=Path, metavar="CSV", help="default: cohort/cohort.csv of the run")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: evaluation/NAME of the run")
    parser.add_argument("--head", type=Path, metavar="DIR", help="default: heads/diagnosis of the run")
    parser.add_argument("--split", choices=SPLITS, help="scans to measure on (default: test)")
    parser.add_argument(
        "--steps", type=positive, nargs="+", metavar="N", help="network calls from scan to noise"
    )
    parser.add_argument(
        "--decode-steps", type=positive, nargs="+", metavar="N", help="network calls from noise to scan"
    )
    parser.add_argument(
        "--solver",
        choices=SOLVERS,
        nargs="+",
        metavar="NAME",
        help=f"{', '.join(SOLVERS)} (default: {SOLVERS[0]})",
    )
    parser.add_argument("--sweep", action="store_true", help="compare solvers and step counts, see below")
    parser.add_argument(
        "--reference-compatible",
        action="store_true",
        help="sweep over the published sampler, x0 clipped, with the published metric settings",
    )
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
        "--by",
        metavar="COLUMN",
        help="calibration: sets that hold within its values; sites: what is left out (default: site)",
    )
    parser.add_argument(
        "--heads",
        dest="compared",
        nargs="+",
        metavar="NAME",
        help="heads of sites: those of `ldae probe`, hac-context (hac, told the site), mlp-matched (with as "
        "many parameters as hac) (default: linear evidential hac hac-context mlp-matched)",
    )
    parser.add_argument(
        "--context",
        nargs="+",
        metavar="COLUMN",
        help="what hac-context of sites is told beside the site, such as age",
    )
    parser.add_argument(
        "--target-class",
        metavar="CLASS",
        help="class that a counterfactual goes to (default: AD), or an explanation speaks of",
    )
    parser.add_argument(
        "--target",
        metavar="COLUMN",
        help="classes that the heads of robustness or sites tell apart (default: diagnosis)",
    )
    parser.add_argument(
        "--quick", action="store_true", default=None, help="a small part of robustness, or one seed of sites"
    )
    parser.add_argument("--limit", type=positive, metavar="N", help="so many subjects at most")
    add_seed(parser)
    add_device(parser)


def writes(args: argparse.Namespace) -> Path:
    """The folder that no other command may write meanwhile."""
    name = SWEEP if _is_sweep(args) else args.name
    default = f"{name}_reference" if args.reference_compatible else name
    folder: Path = args.out or args.run_dir / "evaluation" / default
    return folder


def run(args: argparse.Namespace) -> int:
    """Measure."""
    sweep = _is_sweep(args)
    name = SWEEP if sweep else args.name
    evaluate = getattr(import_module(f"ldae.evaluation.{name}"), f"evaluate_{name}")
    folder = evaluate(
        args.pipeline or args.run_dir / "pipeline",
        args.cohort or args.run_dir / "cohort" / "cohort.csv",
        out=writes(args),
        run_dir=args.run_dir,
        seed=args.seed,
        device=args.device,
        progress=show_progress(),
        **(_sweep_options(args) if sweep else _options(args)),
    )
    print(f"Wrote {folder}")
    if args.name == DRAWN:
        from ldae.report.robustness_figures import write_figures

        print(f"Drew {len(write_figures(folder))} figures")
    for note in read_json(folder / "result.json")["notes"]:
        print(note)
    return 0


def _is_sweep(args: argparse.Namespace) -> bool:
    several = any(len(getattr(args, name) or ()) > 1 for name in SEVERAL)
    if args.name == "reconstruction":
        return bool(several or args.sweep or args.reference_compatible)
    if several or args.sweep or args.reference_compatible:
        raise InputError(
            "Several solvers or step counts, --sweep and --reference-compatible must come with evaluate "
            f"reconstruction, got evaluate {args.name}. Give one value each."
        )
    return False


def _sweep_options(args: argparse.Namespace) -> dict[str, Any]:
    given = {"split": args.split, "limit": args.limit}
    given |= {theirs: getattr(args, ours) for ours, theirs in SEVERAL.items()}
    known = {name: value for name, value in given.items() if value is not None}
    return {**known, "reference_compatible": args.reference_compatible}


def _options(args: argparse.Namespace) -> dict[str, Any]:
    given = {name: getattr(args, name) for name in OPTIONS[args.name] if getattr(args, name) is not None}
    options = {name: value[0] if name in SEVERAL else value for name, value in given.items()}
    if args.name in HEADED:
        options["head"] = args.head or args.run_dir / "heads" / "diagnosis"
    if args.name == "counterfactual":
        other = "diagnosis" if options["head"].name == "age" else "age"
        others = [args.run_dir / "heads" / other]
        options["hold"] = args.hold or [folder for folder in others if folder.is_dir()]
    return options
