# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from coded_cohort import SIZE, write_coded_cohort

from ldae.errors import InputError
from ldae.evaluation.head_input import context_array, context_levels
from ldae.evaluation.probes import fit_probe
from ldae.pipeline.embeddings import read_embeddings
from ldae.pipeline.head_folder import load_head
from ldae.pipeline.manipulation import resolve_head


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_coded_cohort(tmp_path_factory.mktemp("embeddings"), subjects=60)


def test_context_is_numbers_and_a_column_a_value_and_unknown_where_training_knew_nothing() -> None:
    rows = pd.DataFrame(
        {
            "split": ["train", "train", "test", "test"],
            "age": [60.0, 70.0, np.nan, 80.0],
            "site": ["B", "A", "C", None],
        }
    )
    levels = context_levels(rows, ["age", "site"])
    assert levels == {"age": None, "site": ["A", "B"]}
    nan = np.nan
    expected = [[60, 0, 1], [70, 1, 0], [nan, nan, nan], [80, nan, nan]]
    np.testing.assert_array_equal(context_array(rows, levels), expected)


def test_a_head_with_context_is_kept_with_it_and_takes_codes_alone(embeddings: Path, tmp_path: Path) -> None:
    folder = fit_probe(
        embeddings, target="diagnosis", out=tmp_path / "hac", head="hac", context=("sex", "age")
    )
    fitted, frame = load_head(folder), read_embeddings(embeddings)
    assert fitted.provenance["context"] == {"sex": ["F", "M"], "age": None}
    codes = frame[[f"y_{i:03d}" for i in range(SIZE)]].to_numpy(dtype=float)
    beside = context_array(frame, fitted.provenance["context"])
    predictions = pd.read_csv(folder / "predictions.csv").set_index("subject")["p_AD"]
    said = fitted.head.predict_proba(np.hstack([codes, beside]))[:, 0]  # type: ignore[attr-defined]
    told = pd.Series(said, index=frame["subject"]).loc[predictions.index]
    np.testing.assert_allclose(told, predictions, atol=1e-9)
    unknown = np.hstack([codes, np.full_like(beside, np.nan)])
    np.testing.assert_array_equal(
        fitted.head.predict_proba(codes),  # type: ignore[attr-defined]
        fitted.head.predict_proba(unknown),  # type: ignore[attr-defined]
    )
    assert resolve_head(folder, std=codes.std(axis=0), pipeline=fitted.pipeline).head is not None


def test_context_that_does_not_suit_is_refused(embeddings: Path, tmp_path: Path) -> None:
    for sentence, head, context in (
        ("context must be left out for head evidential; hac takes it", "evidential", ("sex",)),
        ("context must be columns of the embeddings, got 'scanner'", "hac", ("scanner",)),
        ("context must leave out the target, got 'diagnosis' as both", "hac", ("diagnosis",)),
    ):
        with pytest.raises(InputError, match=sentence):
            fit_probe(embeddings, target="diagnosis", out=tmp_path / "x", head=head, context=context)
