# SPDX-License-Identifier: Apache-2.0
"""The command that made an evaluation, from the settings that it wrote down."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

from ldae.diffusion.samplers import SOLVERS
from ldae.evaluation.record import SWEEPS, read_result
from ldae.evaluation.solvers import PUBLISHED_SOLVER, PUBLISHED_STEPS, STEPS
from ldae.report.renderings import short_path

# Settings that are options, by the name that the evaluation knows them by.
OPTIONS = {
    "split": "--split",
    "levels": "--steps",
    "steps": "--steps",
    "decode_steps": "--decode-steps",
    "solver": "--solver",
    "solvers": "--solver",
    "target": "--target",
    "by": "--by",
    "compared": "--heads",
    "context": "--context",
    "target_class": "--target-class",
    "thorough": "--thorough",
    "quick": "--quick",
    "limit": "--limit",
    "seed": "--seed",
}
# Folders of heads that are taken where none is named.
HEADS = {"head": "diagnosis", "hold": "age"}


def evaluation_words(folder: Path) -> str:
    """What makes the result in this folder again, but for the run: "evaluate sampling --limit 36"."""
    result = read_result(folder)
    name = str(result["evaluation"])
    given = {"split": result["split"], **result["settings"]}
    usual = _usual(name, given)
    words = ["evaluate", SWEEPS.get(folder.name, name)]
    for key, option in OPTIONS.items():
        if key in given and key in usual and given[key] != usual[key]:
            words += _words(option, given[key])
    for key, own in HEADS.items():
        words += _heads(f"--{key}", given.get(key), own=own)
    return " ".join(words)


def _usual(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the evaluation where nothing is named."""
    evaluate = getattr(import_module(f"ldae.evaluation.{name}"), f"evaluate_{name}")
    usual = {key: one.default for key, one in signature(evaluate).parameters.items()}
    usual = {key: list(one) if isinstance(one, tuple) else one for key, one in usual.items()}
    if "levels" in given:
        usual["levels"] = usual.pop("steps")
    if "solvers" in given:
        published = given["reference_compatible"]
        usual["solvers"] = [PUBLISHED_SOLVER] if published else list(SOLVERS)
        usual["steps"] = list(PUBLISHED_STEPS if published else STEPS)
    if "decode_steps" in usual and usual["decode_steps"] is None:
        usual["decode_steps"] = given["steps"]
    return usual


def _words(option: str, value: Any) -> list[str]:
    if value is None or value is False:
        return []
    if value is True:
        return [option]
    return [option, *map(str, value if isinstance(value, list) else [value])]


def _heads(option: str, folders: Any, *, own: str) -> list[str]:
    found = [folders] if isinstance(folders, str) else list(folders or [])
    if [Path(folder).name for folder in found] == [own]:
        return []
    return [word for folder in found for word in (option, short_path(folder))]
