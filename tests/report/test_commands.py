# SPDX-License-Identifier: Apache-2.0
"""What the page says made an evaluation must make it again."""

from __future__ import annotations

import shlex
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from ldae.cli.main import _parse
from ldae.data.artefact import write_json
from ldae.diffusion.samplers import SOLVERS
from ldae.report.commands import evaluation_words

WALK = {"steps": 20, "decode_steps": 20, "solver": "gaussian-2m", "seed": 0}
SWEEP = {"solvers": list(SOLVERS), "steps": [5, 10, 20, 50, 100], "decode_steps": [5, 10, 20, 50, 100]}
SWEEP |= {"reference_compatible": False, "seed": 0, "limit": 4}


@pytest.mark.parametrize(
    ("folder", "name", "settings", "words"),
    [
        ("reconstruction", "reconstruction", {**WALK, "limit": 48}, "reconstruction"),
        ("comparison", "comparison", {"embeddings": "e.parquet", "heads": "heads", "seed": 0}, "comparison"),
        (
            "robustness",
            "robustness",
            {"target": "age", "steps": {"pgd": 9}, "seed": 0},
            "robustness --target age",
        ),
        ("code", "code", {"levels": 20, "seed": 0, "limit": None}, "code"),
        ("code", "code", {"levels": 5, "seed": 3, "limit": 8}, "code --steps 5 --limit 8 --seed 3"),
        (
            "sampling",
            "sampling",
            {"decode_steps": 5, "solver": "gaussian-2m", "seed": 0, "limit": 36},
            "sampling --decode-steps 5 --limit 36",
        ),
        (
            "counterfactual",
            "counterfactual",
            {**WALK, "decode_steps": 10, "limit": 32, "thorough": True, "head": "h/age", "hold": ["h/age"]},
            "counterfactual --thorough --head h/age",
        ),
        (
            "counterfactual",
            "counterfactual",
            {
                **WALK,
                "decode_steps": 10,
                "limit": 32,
                "thorough": False,
                "head": "h/diagnosis",
                "hold": ["h/x"],
            },
            "counterfactual --hold h/x",
        ),
        ("solvers", "solvers", SWEEP, "reconstruction --sweep"),
        (
            "solvers",
            "solvers",
            {**SWEEP, "solvers": ["ddim", "exact"], "steps": [2, 3], "decode_steps": [2, 3], "limit": 2},
            "reconstruction --sweep --steps 2 3 --solver ddim exact --limit 2",
        ),
        (
            "solvers_reference",
            "solvers",
            {
                **SWEEP,
                "solvers": ["ddim"],
                "steps": [10, 20, 50, 100],
                "decode_steps": [10],
                "reference_compatible": True,
            },
            "reconstruction --reference-compatible --decode-steps 10",
        ),
    ],
)
def test_settings_become_options(
    folder: str,
    name: str,
    settings: dict[str, Any],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    document = {"evaluation": name, "split": "test", "settings": settings}
    write_json(tmp_path / folder / "result.json", document)
    assert evaluation_words(tmp_path / folder) == f"evaluate {words}"
    evaluate = import_module("ldae.cli.verbs.evaluate")
    _parse(evaluate, verb="evaluate", words=shlex.split(words))
