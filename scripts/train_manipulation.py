# SPDX-License-Identifier: Apache-2.0
"""Fit a linear head on semantic codes, judge it on other subjects, and write it for `ldae manipulate`.

The folder heads/SUFFIX/ in the working directory then holds the head, metrics.json and predictions.csv.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _program import Parser, run

if TYPE_CHECKING:
    import pandas as pd

    from ldae.heads import LinearProbe, RidgeProbe

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
    train, test = read_tables(args.train_data_path, args.test_data_path)
    rows, held_out = (labelled(table, classes) for table in (train, test))
    head = fit_age(rows) if classes is None else fit_diagnosis(rows, classes)
    write(Path("heads") / args.suffix, head, rows=rows, held_out=held_out)


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


def read_tables(train: Path, test: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The two tables of codes, which must be of one pipeline and share no subject.

    Raises:
        InputError: A subject is in both, or a table is of the published form.
        CheckpointError: The codes are of two pipelines.
    """
    from ldae.errors import CheckpointError, InputError
    from ldae.pipeline.embeddings import read_embeddings

    for path in (train, test):
        if path.suffix == ".pt":
            raise InputError(
                f"Codes must be a table that scripts/save_semantic_latent.py wrote, got {path}: the "
                "published "
                "code stores labels as numbers and ages rescaled. Make the codes anew."
            )
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
    return first, second


def labelled(table: pd.DataFrame, classes: Sequence[str] | None) -> pd.DataFrame:
    """The rows that have the target: an age, or one of the diagnoses.

    Raises:
        InputError: There is none.
    """
    from ldae.errors import InputError

    kept = table["age"].notna() if classes is None else table["diagnosis"].isin(classes)
    rows = table[kept]
    if rows.empty:
        wanted = "an age" if classes is None else f"a diagnosis among {', '.join(classes)}"
        raise InputError(f"Scans must have {wanted}, got none in {table.attrs['path']}.")
    rows.attrs = dict(table.attrs)
    return rows


def fit_diagnosis(rows: pd.DataFrame, classes: Sequence[str]) -> LinearProbe:
    """A classifier whose positive class is the most advanced diagnosis."""
    from ldae.data.cohort import DIAGNOSES
    from ldae.heads import LinearProbe
    from ldae.pipeline.embeddings import code_array

    positive = max(classes, key=DIAGNOSES.index) if len(classes) == 2 else None
    probe = LinearProbe(positive_label=positive)
    return probe.fit(code_array(rows), rows["diagnosis"].to_numpy(), groups=rows["subject"].to_numpy())


def fit_age(rows: pd.DataFrame) -> RidgeProbe:
    """A regression of the age in years."""
    from ldae.heads import RidgeProbe
    from ldae.pipeline.embeddings import code_array

    return RidgeProbe().fit(code_array(rows), rows["age"].to_numpy(), groups=rows["subject"].to_numpy())


def judge(head: Any, held_out: pd.DataFrame) -> tuple[dict[str, Any], pd.DataFrame]:
    """Metrics with intervals over subjects, and the prediction of each scan."""
    from ldae.evaluation.metrics import classification_metrics, regression_metrics
    from ldae.pipeline.embeddings import code_array

    codes, subjects = code_array(held_out), held_out["subject"].to_numpy()
    table = held_out[["subject", "session", "split"]].reset_index(drop=True)
    if not hasattr(head, "classes_"):
        truth, guess = held_out["age"].to_numpy(), head.predict(codes)
        return regression_metrics(truth, guess, subjects=subjects), table.assign(y_true=truth, y_pred=guess)
    truth, chances = held_out["diagnosis"].to_numpy(), head.predict_proba(codes)
    metrics = classification_metrics(
        truth, chances, classes=head.classes_, subjects=subjects, positive_label=head.positive_label_
    )
    columns = {f"p_{name}": chances[:, index] for index, name in enumerate(head.classes_)}
    return metrics, table.assign(y_true=truth, y_pred=head.predict(codes), **columns)


def write(folder: Path, head: Any, *, rows: pd.DataFrame, held_out: pd.DataFrame) -> None:
    """The head's folder with metrics.json and predictions.csv."""
    from ldae.data.artefact import atomic_path, write_json
    from ldae.pipeline.head_folder import fitted_head, save_head

    metrics, predictions = judge(head, held_out)
    provenance = {
        "target": "diagnosis" if hasattr(head, "classes_") else "age",
        "train": rows.attrs["path"],
        "test": held_out.attrs["path"],
        "split": rows.attrs.get("split"),
        "scans": len(rows),
    }
    fitted = fitted_head(
        head, std=rows.attrs["code_std"], pipeline=rows.attrs["pipeline"], provenance=provenance
    )
    save_head(folder, fitted)
    write_json(folder / "metrics.json", metrics)
    with atomic_path(folder / "predictions.csv") as temporary:
        predictions.to_csv(temporary, index=False)
    main_ones = [name for name in ("auc", "balanced_accuracy", "mae", "r2") if name in metrics]
    print(
        f"wrote {folder}: "
        + ", ".join(f"{name} {metrics[name]:.3f} {metrics[name + '_ci']}" for name in main_ones)
    )


if __name__ == "__main__":
    run(main)
