# SPDX-License-Identifier: Apache-2.0
"""The subject-level split: drawn once, stratified by diagnosis, frozen in the cohort's table."""

from __future__ import annotations

import hashlib
import logging
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ldae.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

SPLITS = ("train", "val", "cal", "test")
FRACTIONS = (0.6, 0.15, 0.1, 0.15)
SPLIT_ADVICE = "Run: ldae split --cohort {path}"


def natural_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key under which "ses-2" comes before "ses-10"."""
    parts = re.findall(r"\d+|\D+", text)
    return tuple((0, int(part), part) if part.isdigit() else (1, 0, part) for part in parts)


def split_subjects(
    frame: pd.DataFrame,
    *,
    seed: int = 0,
    fractions: Sequence[float] = FRACTIONS,
    known: Mapping[str, str] | None = None,
) -> pd.Series[str]:
    """Draw train, val, cal or test for every row, the same for all rows of a subject.

    Subjects are stratified by the diagnosis of their first session (natural order of the session's name;
    subjects without a diagnosis form a stratum of their own). Sizes follow the fractions by largest
    remainder, overall exactly and within each stratum as near as whole subjects allow, and no split is
    empty. The draw depends on the set of subjects, their diagnoses and the seed, not on the order of rows.

    Args:
        frame: A cohort with the columns subject, session and diagnosis.
        seed: Another seed, another split.
        fractions: Shares of train, val, cal and test; they add up to 1.
        known: Words of subjects that were drawn before and keep them. The others fill up their stratum.

    Returns:
        One split word a row, with the frame's index and the name "split".

    Raises:
        InputError: Fewer than four subjects, fractions that are not four positive shares of 1, or a known
            word that names no split.
    """
    if (
        len(fractions) != len(SPLITS)
        or min(fractions) <= 0
        or not math.isclose(sum(fractions), 1, abs_tol=1e-6)
    ):
        raise InputError(
            f"fractions must be {len(SPLITS)} positive shares ({', '.join(SPLITS)}) that add up to 1, "
            f"got {list(fractions)}. The default is {list(FRACTIONS)}."
        )
    strata = _strata(frame)
    subjects = sum(len(members) for members in strata)
    if subjects < len(SPLITS):
        raise InputError(
            f"A cohort must have at least {len(SPLITS)} subjects to be split into {', '.join(SPLITS)}, "
            f"got {subjects}. Add subjects, or fill the split column by hand."
        )
    known = known or {}
    if strange := sorted(set(known.values()) - set(SPLITS)):
        raise InputError(
            f"known must hold the words {', '.join(SPLITS)}, got {', '.join(map(repr, strange))}."
        )
    counts = _apportion(np.array([len(members) for members in strata]), np.asarray(fractions, dtype=float))
    chosen: dict[str, str] = {}
    for members, sizes in zip(strata, counts, strict=True):
        taken = Counter(known[subject] for subject in members if subject in known)
        free = [size - taken[word] for word, size in zip(SPLITS, sizes, strict=True)]
        words = np.repeat(np.array(SPLITS, dtype=object), np.maximum(free, 0))
        ranked = sorted(set(members) - set(known), key=lambda subject: _draw(subject, seed))
        # words are left over where another part holds more known subjects than its share
        chosen.update(zip(ranked, words, strict=False))
    chosen.update(known)
    return frame["subject"].map(chosen).rename("split")


def _draw(subject: str, seed: int) -> bytes:
    """A subject's rank: a hash, so that it depends neither on the others nor on a generator's version."""
    return hashlib.sha256(f"{seed}\t{subject}".encode()).digest()


def _strata(frame: pd.DataFrame) -> list[list[str]]:
    """Subjects grouped by the diagnosis of their first session."""
    sessions, diagnoses = frame["session"], frame["diagnosis"].fillna("")

    def visit(place: int) -> tuple[tuple[tuple[int, int, str], ...], str]:
        return natural_key(str(sessions.iat[place])), str(diagnoses.iat[place])

    first: dict[str, int] = {}
    for place, subject in enumerate(frame["subject"]):
        other = first.setdefault(subject, place)
        if other != place:
            first[subject] = min(other, place, key=visit)
    groups: dict[str, list[str]] = {}
    for subject, place in first.items():
        groups.setdefault(str(diagnoses.iat[place]), []).append(subject)
    return [groups[diagnosis] for diagnosis in sorted(groups)]


def _largest_remainder(total: int, fractions: NDArray[np.float64]) -> NDArray[np.int64]:
    """Whole numbers that add up to `total`, nearest to `total * fractions`."""
    quota = total * fractions
    counts = np.floor(quota + 1e-9).astype(np.int64)
    order = np.argsort(counts - quota, kind="stable")
    counts[order[: total - counts.sum()]] += 1
    return counts


def _apportion(sizes: NDArray[np.int64], fractions: NDArray[np.float64]) -> NDArray[np.int64]:
    """Subjects per stratum and split: largest remainder by row, then the cheapest moves to right columns."""
    target = _largest_remainder(int(sizes.sum()), fractions)
    while target.min() == 0:
        target[target.argmax()] -= 1
        target[target.argmin()] += 1
    quota = sizes[:, None] * fractions
    counts = np.stack([_largest_remainder(int(size), fractions) for size in sizes])
    while (excess := counts.sum(axis=0) - target).any():
        source, sink = int(excess.argmax()), int(excess.argmin())
        over, under = counts[:, source] - quota[:, source], counts[:, sink] - quota[:, sink]
        # The change of the sum of squared deviations when one subject of that stratum moves.
        cost = np.where(counts[:, source] > 0, under - over, np.inf)
        row = int(cost.argmin())
        counts[row, source] -= 1
        counts[row, sink] += 1
    return counts


def check_split(frame: pd.DataFrame) -> None:
    """Stop when the split column is missing, holds unknown words, or puts a subject in two splits.

    Raises:
        InputError: With the words or the subjects that are wrong.
    """
    path = frame.attrs.get("path", "COHORT.csv")
    if "split" not in frame.columns:
        raise InputError(
            f"A cohort must have a split column, got none in {path}. {SPLIT_ADVICE.format(path=path)}"
        )
    if unknown := unknown_words(frame):
        raise InputError(
            f"split must be one of {', '.join(SPLITS)}, got {', '.join(map(repr, unknown[:5]))} in {path}. "
            f"Correct the column, or draw it anew: ldae split --cohort {path} --overwrite"
        )
    leaks = [f"{subject} ({' and '.join(found)})" for subject, found in leaking_subjects(frame).items()]
    if leaks:
        more = f" and {len(leaks) - 10} more" if len(leaks) > 10 else ""
        raise InputError(
            f"A subject must be in one split only, got {len(leaks)} in two in {path}: "
            f"{', '.join(leaks[:10])}{more}. Give all scans of a subject the same split, or draw it anew: "
            f"ldae split --cohort {path} --overwrite"
        )


def unknown_words(frame: pd.DataFrame) -> list[str]:
    """What the split column holds beside the four words, sorted."""
    words = frame["split"].drop_duplicates().astype(object).fillna("")
    return sorted(set(map(str, words)) - set(SPLITS))


def leaking_subjects(frame: pd.DataFrame) -> dict[Any, list[str]]:
    """Subjects that are in several splits, each with its splits, sorted."""
    pairs = frame[["subject", "split"]].dropna().drop_duplicates()
    several = pairs[pairs["subject"].duplicated(keep=False)]
    found: dict[Any, list[str]] = {}
    for subject, word in zip(several["subject"], several["split"], strict=True):
        found.setdefault(subject, []).append(word)
    return {subject: sorted(found[subject]) for subject in sorted(found, key=str)}


def split_hash(frame: pd.DataFrame) -> str:
    """Hash of who is in which split, the same for any order of rows and any other column.

    Raises:
        InputError: The split is missing or leaks, see `check_split`.
    """
    check_split(frame)
    pairs = frame[["subject", "split"]].drop_duplicates()
    lines = {f"{subject}\t{word}" for subject, word in zip(pairs["subject"], pairs["split"], strict=True)}
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def freeze_split(
    cohort: str | Path, *, seed: int = 0, fractions: Sequence[float] = FRACTIONS, overwrite: bool = False
) -> pd.DataFrame:
    """Draw the split and write it into the cohort's table; every other cell keeps its text.

    Args:
        cohort: The cohort CSV, or a BIDS folder or its participants.tsv, which then receives the column
            (`n/a` for participants without a scan).
        seed: Another seed, another split.
        fractions: Shares of train, val, cal and test.
        overwrite: Replace a split that is already there. Everything trained on the old one becomes invalid.

    Returns:
        The cohort with its split column.

    Raises:
        InputError: There is a split column already and `overwrite` is False, or the cohort cannot be split.
    """
    from ldae.data.cohort import read_cohort
    from ldae.data.table import read_table, table_path, write_table

    path = table_path(Path(cohort))
    table = read_table(path)
    if "split" in table.header and not overwrite:
        raise InputError(
            f"A split must be drawn once, got a split column in {path} already. Use it as it is; "
            "--overwrite draws a new one, and everything trained on the old one must then be trained anew."
        )
    frame = read_cohort(cohort, check="table", ignore_split=True)
    frame["split"] = split_subjects(frame, seed=seed, fractions=fractions)
    chosen = dict(zip(frame["subject"], frame["split"], strict=True))
    key = "participant_id" if "participant_id" in table.header else "subject"
    words = [chosen.get(cell.strip(), "n/a") for cell in table.column(key)]
    write_table(path, table.with_column("split", words))
    sizes = {word: sum(value == word for value in chosen.values()) for word in SPLITS}
    logger.info("Split %d subjects of %s: %s", len(chosen), path, sizes)
    return frame
