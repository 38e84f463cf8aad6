# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from ldae.data.artefact import write_json
from ldae.evaluation.default_head import choose_head, default_head, judge_heads
from ldae.pipeline.folder import read_index

LINEAR = {"nll": 0.40, "aurc": 0.05, "balanced_accuracy": 0.850, "corruption_nll": 0.90}
BETTER = {"nll": 0.39, "aurc": 0.04, "balanced_accuracy": 0.850, "corruption_nll": 0.80}


def table(**heads: dict[str, float]) -> pd.DataFrame:
    return pd.DataFrame([{"head": name, **scores} for name, scores in {"linear": LINEAR, **heads}.items()])


def test_a_head_that_is_better_in_all_takes_the_linear_probes_place() -> None:
    assert choose_head(table()) == "linear"
    assert choose_head(table(mlp=BETTER)) == "mlp"
    assert choose_head(table(mlp=BETTER, hac={**BETTER, "corruption_nll": 0.7})) == "hac"


@pytest.mark.parametrize(
    ("worse", "column"),
    [
        ({"nll": 0.40}, "better_nll"),
        ({"aurc": 0.05}, "better_aurc"),
        ({"corruption_nll": 0.90}, "better_corruption_nll"),
        ({"balanced_accuracy": 0.844}, "better_balanced_accuracy"),
    ],
)
def test_one_that_is_not_does_not(worse: dict[str, float], column: str) -> None:
    scores = table(mlp={**BETTER, **worse})
    assert choose_head(scores) == "linear"
    judged = judge_heads(scores).set_index("head").loc["mlp"]
    failed = [name for name in judged.index if name.startswith("better_") and not judged[name]]
    assert failed == [column]


def test_half_a_point_of_balanced_accuracy_may_be_lost() -> None:
    assert choose_head(table(mlp={**BETTER, "balanced_accuracy": 0.8451})) == "mlp"


def test_ladine_must_also_beat_the_depths_without_diffusion() -> None:
    plain = {**BETTER, "aurc": 0.06, "nll": 0.385}
    assert choose_head(table(ladine=BETTER)) == "ladine"
    assert choose_head(table(ladine=BETTER, depths=plain)) == "linear"
    assert choose_head(table(ladine=BETTER, depths={**plain, "nll": 0.395})) == "linear"
    assert choose_head(table(ladine={**BETTER, "nll": 0.38, "corruption_nll": 0.7}, depths=plain)) == "ladine"


def test_probe_asks_the_benchmark_of_the_same_pipeline(judged_run: Path, tmp_path: Path) -> None:
    assert default_head(tmp_path, target="diagnosis") == "linear"
    (tmp_path / "pipeline").symlink_to(judged_run / "pipeline")
    settings = {
        "target": "diagnosis",
        "quick": False,
        "pipeline": read_index(judged_run / "pipeline").sha256,
    }

    def write(**changed: object) -> None:
        document = {"settings": {**settings, **changed}, "values": {"default_head": "hac"}}
        write_json(tmp_path / "evaluation" / "robustness" / "result.json", document)

    write()
    assert default_head(tmp_path, target="diagnosis") == "hac"
    assert default_head(tmp_path, target="age") == "linear"
    write(quick=True)
    assert default_head(tmp_path, target="diagnosis") == "linear"
    write(pipeline="other")
    assert default_head(tmp_path, target="diagnosis") == "linear"
