# SPDX-License-Identifier: Apache-2.0
"""What a reader of the robustness tables must know, as sentences made from the tables."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import pandas as pd

from ldae.evaluation.attacks import ATTACKS
from ldae.evaluation.default_head import ACCURACY_LOST
from ldae.evaluation.head_choice import DEPTH_ENSEMBLE, LADINE, LINEAR
from ldae.evaluation.robust_heads import TEST, TRANSFER, WHITE_BOX

STRENGTH = tuple(ATTACKS)  # from weak to strong


def robust_notes(tables: Mapping[str, pd.DataFrame], choice: pd.DataFrame, *, default: str) -> list[str]:
    """The sentences."""
    return [
        _default(choice, default),
        *_ablation(choice),
        f"{TRANSFER}: attacks made for the {LINEAR} head and shown to the others, as LaDiNE was tested. That "
        f"says nothing of an attacker who knows the head; the {WHITE_BOX} rows do.",
        *_red_flags(tables),
    ]


def _default(choice: pd.DataFrame, default: str) -> str:
    rule = (
        "lower NLL and AURC on clean scans, lower mean NLL on corrupted ones, at most "
        f"{100 * ACCURACY_LOST:g} points of balanced accuracy lost, on validation scans"
    )
    if default == LINEAR:
        return f"ldae probe keeps the linear probe: no head has {rule}."
    test = choice[(choice["part"] == TEST) & (choice["head"] == default)].iloc[0]
    held = "holds" if test["passes"] else "does not hold"
    return f"ldae probe takes {default}: {rule}. On test scans the same {held}."


def _ablation(choice: pd.DataFrame) -> list[str]:
    table = choice[choice["part"] == TEST].set_index("head")
    if not {LADINE, DEPTH_ENSEMBLE} <= set(table.index):
        return []
    ours, plain = table.loc[LADINE], table.loc[DEPTH_ENSEMBLE]
    return [
        f"Label diffusion against the same depths without it, test scans: NLL {ours['nll']:.4f} against "
        f"{plain['nll']:.4f} clean, {ours['corruption_nll']:.4f} against {plain['corruption_nll']:.4f} "
        "corrupted."
    ]


def _red_flags(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """Signs of an attack that does not work."""
    found = []
    for weak, strong in pairwise(STRENGTH):
        pair = tables[f"{WHITE_BOX}_{weak}"].merge(
            tables[f"{WHITE_BOX}_{strong}"], on=["head", "grade"], suffixes=("_weak", "_strong")
        )
        for row in pair[pair["accuracy_strong"] > pair["accuracy_weak"] + 1e-9].to_dict("records"):
            found.append(
                f"Red flag: {strong} leaves {row['head']} more accuracy than {weak} at eps "
                f"{row['grade']:.4f} ({row['accuracy_strong']:.3f}, {row['accuracy_weak']:.3f})."
            )
    unlimited = float(tables[f"{WHITE_BOX}_pgd_unlimited"]["accuracy"].max())
    if unlimited > 0:
        found.append(
            f"Red flag: an attack without limit leaves the {LINEAR} head an accuracy of {unlimited:.3f}."
        )
    return found or ["No attack is weaker than a simpler one, and without a limit none is survived."]
