# SPDX-License-Identifier: Apache-2.0
"""What a head is worth at a site that it has not seen: one site after another is left out of its fitting."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from ldae.data.target import is_number
from ldae.errors import InputError
from ldae.evaluation.head_input import context_array, context_levels
from ldae.evaluation.material import Material
from ldae.evaluation.predictions import FITTED_ON
from ldae.evaluation.probes import select_rows
from ldae.evaluation.record import Findings, evaluate_once
from ldae.evaluation.site_folds import ALL, AS_FEW, WITHOUT, judged_sites, known_sites, make_folds
from ldae.evaluation.site_heads import (
    COMPARED,
    Contest,
    check_heads,
    count_parameters,
)
from ldae.evaluation.site_scores import POOLED, SCAN, difference_rows, judged_rows
from ldae.pipeline.embeddings import code_columns, read_embeddings

NAME = "sites"
DIFFERENCES = "differences.csv"
SEEDS = 3
TOLD = ("balanced_accuracy", "nll")


def evaluate_sites(
    pipeline: str | Path,
    cohort: str | Path,
    *,
    out: str | Path,
    target: str = "diagnosis",
    by: str = "site",
    compared: Sequence[str] = COMPARED,
    context: Sequence[str] = (),
    quick: bool = False,
    embeddings: str | Path | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: bool = False,
    run_dir: str | Path | None = None,
) -> Path:
    """Fit heads on the training scans of all sites but one, and judge them on the test scans of that one.

    Test scans only: the encoder was trained or chosen on subjects of the other splits, whose codes would
    flatter any head. It has seen the site's training scans, without labels; it is the head that has not. A
    subject with scans at two sites is fitted on or judged, never both.

    Beside it stands the same head fitted on the training scans of all sites, and on as few subjects of all
    sites as are left without the site; all three are judged on the same test scans. All is done under three
    seeds, and a figure is the mean over them. Intervals are over the judged subjects: what other training
    subjects would have changed is not in them; the range over the draws of as few gives an idea of it.

    The head hac-context is told the site; one that was left out is unknown to it and counts as a learned
    value. mlp-matched is an evidential network without modulation, of as many parameters as hac has. What is
    pooled over sites comes from a head a site, so that its AUC compares scores of several heads.

    Args:
        pipeline: Folder of the pipeline that made the codes.
        cohort: The cohort's table.
        out: Folder of the results, such as evaluation/sites of the run.
        target: Column with the classes to tell apart; of a diagnosis CN and AD.
        by: Column of the embeddings whose values are left out one by one.
        compared: Heads: hac-context, mlp-matched, or any head that `ldae probe` fits on codes.
        context: Further columns, such as age, that hac-context is told.
        quick: One seed instead of three.
        embeddings: Table of codes; None takes embeddings.parquet of the run.
        seed: The first of the seeds of heads, folds and drawn subjects.
        device: As for every evaluation; nothing is computed on it.
        progress: Show a bar.
        run_dir: Folder of the run; None takes the one that holds the pipeline.

    Returns:
        The folder, with table.csv, scans.csv, differences.csv and result.json.

    Raises:
        FileNotFoundError: The table of codes is missing.
        InputError: No such column or head, a target of numbers, a single site, or none with enough subjects.
    """
    material = Material.of(pipeline, cohort, out=out, run_dir=run_dir, device=device, progress=progress)
    embeddings = Path(embeddings or material.run_dir / "embeddings.parquet")
    contest = Contest(target, by, tuple(dict.fromkeys([by, *context])), seed)

    def compute() -> Findings:
        check_heads(compared)
        every = _labelled(read_embeddings(embeddings), contest)
        rows = known_sites(every, by=by)
        sites, notes = judged_sites(rows, by=by, target=target)
        if len(rows) < len(every):
            notes.append(f"{len(every) - len(rows)} scans without a known {by} are left out.")
        contests = [replace(contest, seed=seed + place) for place in range(1 if quick else SEEDS)]
        answers = _ask(contests, rows, sites=sites, heads=compared, progress=progress)
        said = pd.concat(answers, ignore_index=True)
        return _findings(said, rows, contest=contest, notes=notes)

    return evaluate_once(
        material,
        name=NAME,
        settings={
            "target": target,
            "by": by,
            "compared": list(compared),
            "context": list(context),
            "quick": quick,
            "embeddings": str(embeddings),
            "seed": seed,
        },
        compute=compute,
        inputs=[embeddings],
        more=[DIFFERENCES],
    )


def _labelled(frame: pd.DataFrame, contest: Contest) -> pd.DataFrame:
    if contest.target in contest.context:
        raise InputError(f"target must be another column than by and context, got {contest.target!r}.")
    rows = select_rows(frame, target=contest.target)
    if is_number(rows[contest.target]):
        raise InputError(
            f"target must be a column of classes, got numbers in {contest.target!r}. Name one, such as "
            "diagnosis."
        )
    return rows


def _ask(
    contests: Sequence[Contest], rows: pd.DataFrame, *, sites: list[str], heads: Sequence[str], progress: bool
) -> Iterator[pd.DataFrame]:
    fits = [
        (contest, head, fold)
        for contest in contests
        for fold in make_folds(rows, by=contest.by, sites=sites, target=contest.target, seed=contest.seed)
        for head in heads
    ]
    for contest, head, fold in tqdm(fits, desc="fits", disable=not progress):
        yield contest.said(head, fold)


def _findings(said: pd.DataFrame, rows: pd.DataFrame, *, contest: Contest, notes: list[str]) -> Findings:
    table = pd.DataFrame(judged_rows(said))
    differences = pd.DataFrame(difference_rows(said))
    parameters = _parameters(said, rows, contest=contest)
    values = _values(table) | _lost(differences)
    one = said.drop_duplicates(SCAN)
    counts = {
        "scans": len(one),
        "subjects": int(one["subject"].nunique()),
        "sites": int(one["site"].nunique()),
        "seeds": int(said["seed"].nunique()),
        **{f"parameters_{_key(head)}": count for head, count in parameters.items()},
    }
    sentences = [*notes, *_told(parameters), *_summaries(table)]
    return Findings(values, table, said, counts, sentences, {DIFFERENCES: differences})


def _parameters(said: pd.DataFrame, rows: pd.DataFrame, *, contest: Contest) -> dict[str, int]:
    """Of the networks that took part."""
    train = rows[rows["split"] == FITTED_ON]
    beside = context_array(train, context_levels(train, contest.context)).shape[1]
    counts = count_parameters(
        len(code_columns(rows)), classes=train[contest.target].nunique(), context=beside
    )
    return {head: count for head, count in counts.items() if (said["head"] == head).any()}


def _values(table: pd.DataFrame) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for row in table[table["site"] == POOLED].to_dict("records"):
        for name in TOLD:
            key = f"{name}_{_key(row['head'])}_{_key(row['fitted'])}"
            values |= {key: row[name], f"{key}_ci": [row[f"{name}_low"], row[f"{name}_high"]]}
    return values


def _lost(differences: pd.DataFrame) -> dict[str, Any]:
    """By how much a head's NLL is higher at a site that it has not seen."""
    rows = differences[
        (differences["metric"] == "nll") & (differences["head"] == differences["against_head"])
    ]
    values: dict[str, Any] = {}
    for row in rows.to_dict("records"):
        key = f"nll_lost_{_key(row['head'])}_against_{_key(row['against_fitted'])}"
        values |= {key: row["value"], f"{key}_ci": [row["low"], row["high"]]}
    return values


def _told(parameters: dict[str, int]) -> Iterator[str]:
    if parameters:
        counts = ", ".join(f"{head} {count}" for head, count in parameters.items())
        yield f"Parameters of the networks: {counts}."


def _summaries(table: pd.DataFrame) -> Iterator[str]:
    rows = table[table["site"] == POOLED].set_index(["head", "fitted"])
    for head in dict.fromkeys(table["head"]):
        without, every, few = (rows.loc[(head, arm)] for arm in (WITHOUT, ALL, AS_FEW))
        yield (
            f"{head}: NLL {without['nll']:.3f} {WITHOUT}, {every['nll']:.3f} {ALL}, {few['nll']:.3f} "
            f"{AS_FEW} ({few['nll_lowest']:.3f} to {few['nll_highest']:.3f} over draws)."
        )


def _key(words: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")
