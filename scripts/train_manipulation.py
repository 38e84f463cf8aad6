# SPDX-License-Identifier: Apache-2.0
"""Fit a linear head on semantic codes, judge it on other subjects, and write it for `ldae manipulate`.

The folder heads/SUFFIX/ in the working directory then holds head, metrics.json, predictions.csv and codes.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from _program import Parser, run

if TYPE_CHECKING:
    import pandas as pd

EMBEDDINGS = "embeddings.parquet"
# the published code numbers the classes in the order of their names
PUBLISHED_NUMBERS = {"0": "AD", "1": "CN", "2": "MCI"}
WORDS = {"true": True, "false": False}


def boolean(word: str) -> bool:
    """True or False, as the published command lines spell it."""
    if word.lower() not in WORDS:
        raise argparse.ArgumentTypeError(f"must be True or False, got {word!r}")
    return WORDS[word.lower()]


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Read the words after the script's name."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--train_on_age",
        type=boolean,
        nargs="?",
        const=True,
        default=False,
        metavar="True|False",
        help="fit age instead of the diagnosis (default: False)",
    )
    for name in ("train", "test"):
        parser.add_argument(
            f"--{name}_data_path",
            type=Path,
            required=True,
            metavar="PARQUET",
            help=f"codes of the {name} split, as save_semantic_latent.py writes them",
        )
    parser.add_argument("--suffix", required=True, metavar="WORD", help="name of the head's folder in heads/")
    parser.add_argument(
        "--target_classes",
        nargs="+",
        default=["0", "1"],
        metavar="CLASS",
        help="diagnoses to tell apart, by name or published number: 0 AD, 1 CN, 2 MCI (default: 0 1)",
    )
    return parser.parse_args(words)


def main(words: Sequence[str]) -> None:
    """Fit, judge, write."""
    args = parse(words)
    classes = None if args.train_on_age else find_classes(args.target_classes)
    table = join_tables(args.train_data_path, args.test_data_path)

    from ldae.data.cohort import DIAGNOSES
    from ldae.evaluation.predictions import read_metrics
    from ldae.evaluation.probes import fit_probe
    from ldae.pipeline.embeddings import write_embeddings

    folder = Path("heads") / args.suffix
    write_embeddings(table, folder / EMBEDDINGS)
    fit_probe(
        folder / EMBEDDINGS,
        target="age" if classes is None else "diagnosis",
        out=folder,
        classes=classes,
        positive=max(classes, key=DIAGNOSES.index) if classes and len(classes) == 2 else None,
    )
    metrics = read_metrics(folder)
    shown = [name for name in ("auc", "balanced_accuracy", "mae", "r2") if name in metrics]
    told = ", ".join(f"{name} {metrics[name]:.3f} {metrics[name + '_ci']}" for name in shown)
    print(f"wrote {folder}: {told}")


def find_classes(words: Sequence[str]) -> list[str]:
    """The diagnoses by name.

    Raises:
        InputError: Fewer than two, or unknown ones.
    """
    from ldae.data.cohort import DIAGNOSES
    from ldae.errors import InputError

    classes = [PUBLISHED_NUMBERS.get(word, word) for word in words]
    if len(set(classes)) < 2 or len(set(classes)) < len(classes) or not set(classes) <= set(DIAGNOSES):
        raise InputError(
            f"--target_classes must be two or three different ones of {', '.join(DIAGNOSES)} (or 0 AD, 1 CN, "
            f"2 MCI), got {' '.join(words)}."
        )
    return classes


def join_tables(train: Path, test: Path) -> pd.DataFrame:
    """The two tables of codes as one; which file a scan is in decides on its split.

    Raises:
        FileNotFoundError: A table does not exist.
        InputError: A subject is in both, or a table is of the published form.
        CheckpointError: The codes are of two pipelines.
    """
    from ldae.errors import CheckpointError, InputError

    for path in (train, test):
        if path.suffix == ".pt":
            raise InputError(
                f"Codes must be a table that scripts/save_semantic_latent.py wrote, got {path}: the "
                "published code stores labels as numbers and ages rescaled. Make the codes anew."
            )
    import pandas as pd

    from ldae.pipeline.embeddings import read_embeddings

    first, second = read_embeddings(train), read_embeddings(test)
    if first.attrs["pipeline"] != second.attrs["pipeline"]:
        raise CheckpointError(
            f"Codes must be of one pipeline, but {train} is of {first.attrs['pipeline'][:12]} and {test} of "
            f"{second.attrs['pipeline'][:12]}. Make one of them anew."
        )
    shared = sorted(set(first["subject"]) & set(second["subject"]))
    if shared:
        raise InputError(
            f"Subjects must be in one table only, got {len(shared)} in {train} and {test}: "
            f"{', '.join(shared[:10])}. Give the tables of two splits."
        )
    attributes = {name: value for name, value in first.attrs.items() if name != "path"}
    first.attrs = second.attrs = {}
    table = pd.concat([first.assign(split="train"), second.assign(split="test")], ignore_index=True)
    table.attrs = attributes
    return table


if __name__ == "__main__":
    run(main)
