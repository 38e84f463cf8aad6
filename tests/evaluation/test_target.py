# SPDX-License-Identifier: Apache-2.0
"""Columns as classes or numbers: booleans, numbers that are codes of classes, and words like NA."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from coded_cohort import write_coded_cohort

from ldae.data.target import labelled_rows
from ldae.errors import InputError
from ldae.evaluation.predictions import read_metrics, read_predictions
from ldae.evaluation.probes import fit_probe
from ldae.pipeline.embeddings import read_embeddings, write_embeddings
from ldae.pipeline.head_folder import load_head

SPLITS = ("train", "test")


def column(values: Any, *, classes: list[str] | None = None) -> list[Any]:
    """What remains of a column of four values in either split."""
    frame = pd.DataFrame({"subject": list("abcdefgh"), "split": ["train"] * 4 + ["test"] * 4})
    frame["x"] = pd.concat([values, values], ignore_index=True)
    found: list[Any] = labelled_rows(frame, target="x", classes=classes, splits=SPLITS)["x"].tolist()
    return found[: len(found) // 2]


@pytest.mark.parametrize("kind", [object, "boolean"])
def test_truth_values_are_classes_also_beside_missing_ones(kind: Any) -> None:
    values = pd.Series([True, False, None, True], dtype=kind)
    assert column(values) == [True, False, True]
    assert column(values, classes=["True", "False"]) == [True, False, True]
    with pytest.raises(InputError, match="got none of yes"):
        column(values, classes=["yes", "False"])


def test_numbers_are_classes_where_they_are_named() -> None:
    assert column(pd.Series([0, 1, 2, 1]), classes=["0", "1"]) == ["0", "1", "1"]
    assert column(pd.Series([0.0, 1.0, np.nan, 1.0]), classes=["1", "0"]) == ["0", "1", "1"]
    assert column(pd.Series([0, 1, None, 1], dtype=object), classes=["0", "1"]) == ["0", "1", "1"]
    assert column(pd.Series([0, 1, None, 1], dtype=object)) == [0, 1, 1]
    with pytest.raises(InputError, match="must have scans in split train, got none of 7"):
        column(pd.Series([0, 1, 2, 1]), classes=["0", "7"])


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """AD or not in several forms, beside codes that tell it."""
    folder = tmp_path_factory.mktemp("odd")
    frame = read_embeddings(write_coded_cohort(folder, subjects=240))
    ill = frame["diagnosis"] == "AD"
    frame["code"] = ill.astype(int)
    frame["known"] = ill.astype(object).where(np.arange(len(frame)) % 7 > 0, None)
    frame["word"] = np.where(ill, "NA", "01")
    path = folder / "embeddings.parquet"
    write_embeddings(frame, path)
    return path


def test_a_code_of_two_numbers_is_regressed_and_said(
    embeddings: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        metrics = read_metrics(fit_probe(embeddings, target="code", out=tmp_path / "number"))
        fit_probe(embeddings, target="age", out=tmp_path / "age")
    assert "r2" in metrics
    assert [one.getMessage() for one in caplog.records if "regressed" in one.getMessage()] == [
        "code is regressed, though it holds no numbers but 0 and 1. For classes: --classes 0 1"
    ]
    with pytest.raises(InputError, match=r"name them \(--classes 0 1\), or write words"):
        fit_probe(embeddings, target="code", out=tmp_path / "x", head="evidential")
    folder = fit_probe(
        embeddings, target="code", classes=["0", "1"], positive="0", out=tmp_path / "c", head="tempered"
    )
    head: Any = load_head(folder).head
    assert (head.classes_.tolist(), head.positive_label_) == (["0", "1"], "0")
    assert read_metrics(folder)["auc"] > 0.8


@pytest.mark.parametrize("positive", ["True", "False"])
def test_the_positive_truth_value_is_named_by_its_word(
    embeddings: Path, tmp_path: Path, positive: str
) -> None:
    folder = fit_probe(embeddings, target="known", positive=positive, out=tmp_path, head="evidential")
    head: Any = load_head(folder).head
    assert head.classes_.tolist() == [False, True]
    assert str(head.positive_label_) == positive
    assert read_metrics(folder)["auc"] > 0.8
    with pytest.raises(InputError, match="positive_label must be one of the classes"):
        fit_probe(embeddings, target="known", positive="yes", out=tmp_path / "x")


def test_words_are_read_as_they_were_written(embeddings: Path, tmp_path: Path) -> None:
    rows = read_predictions(fit_probe(embeddings, target="word", out=tmp_path, head="evidential"))
    assert set(rows["y_true"]) == set(rows["y_pred"]) == {"01", "NA"}
    assert rows["p_NA"].dtype == rows["u_vacuity"].dtype == np.float64


def test_a_code_that_is_not_finite_is_named(embeddings: Path, tmp_path: Path) -> None:
    frame = read_embeddings(embeddings)
    frame.loc[frame["subject"] == "s004", "y_003"] = np.nan
    write_embeddings(frame, tmp_path / "embeddings.parquet")
    with pytest.raises(InputError, match=r"must be finite, got nan in y_003 of s004 1 in .*ldae embed"):
        fit_probe(tmp_path / "embeddings.parquet", target="age", out=tmp_path / "age")
