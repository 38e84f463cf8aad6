# SPDX-License-Identifier: Apache-2.0
"""Which head `ldae probe` fits where none is named: the linear probe, unless another has earned its place."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ldae.data.artefact import read_json
from ldae.evaluation.head_choice import DEPTH_ENSEMBLE, LADINE, LINEAR
from ldae.evaluation.record import RESULT
from ldae.pipeline.folder import read_index

ACCURACY_LOST = 0.005  # half a point of balanced accuracy
LOWER = ("nll", "aurc", "corruption_nll")
CRITERIA = (*LOWER, "balanced_accuracy")
NAME = "robustness"
CHOSEN = "default_head"


def judge_heads(scores: pd.DataFrame) -> pd.DataFrame:
    """Which heads may take the linear probe's place.

    A head must have lower NLL and AURC on clean scans, lower mean NLL on corrupted ones, and at most half a
    point less balanced accuracy on clean ones; LaDiNE must also have lower NLL, on both, than the ensemble
    over the same depths without diffusion.

    Args:
        scores: A row a head with the columns head, nll, aurc, balanced_accuracy (clean) and corruption_nll.

    Returns:
        The table with a column better_<score> for each of them, and `passes`.
    """
    table = scores.set_index("head")
    linear = table.loc[LINEAR]
    judged = {f"better_{name}": table[name] < linear[name] for name in LOWER}
    judged["better_balanced_accuracy"] = table["balanced_accuracy"] >= (
        linear["balanced_accuracy"] - ACCURACY_LOST
    )
    table = table.assign(**judged)
    table["passes"] = table[list(judged)].all(axis=1)
    if {LADINE, DEPTH_ENSEMBLE} <= set(table.index):
        plain = table.loc[DEPTH_ENSEMBLE]
        ours = table.loc[LADINE]
        table.loc[LADINE, "passes"] &= bool(
            ours["nll"] < plain["nll"] and ours["corruption_nll"] < plain["corruption_nll"]
        )
    return table.reset_index()


def choose_head(scores: pd.DataFrame) -> str:
    """Of the heads that may take its place the one with the lowest NLL on corrupted scans, else the linear
    probe.

    Args:
        scores: As for `judge_heads`, of the validation scans.
    """
    table = judge_heads(scores)
    earned = table[table["passes"]]
    if earned.empty:
        return LINEAR
    return str(earned.loc[earned["corruption_nll"].idxmin(), "head"])


def default_head(run_dir: Path, *, target: str) -> str:
    """What the robustness benchmark of a run has chosen for this target and this pipeline, else linear."""
    path = run_dir / "evaluation" / NAME / RESULT
    pipeline = run_dir / "pipeline"
    if not path.is_file() or not pipeline.is_dir():
        return LINEAR
    found = read_json(path)
    settings = found["settings"]
    same = settings["target"] == target and settings["pipeline"] == read_index(pipeline).sha256
    return str(found["values"][CHOSEN]) if same and not settings["quick"] else LINEAR
