# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from ldae.errors import CheckpointError, InputError
from ldae.heads import LinearProbe, RidgeProbe
from ldae.pipeline.embeddings import write_embeddings
from ldae.pipeline.head_folder import fitted_head, save_head
from ldae.pipeline.manipulation_job import class_named, manipulate_scans
from ldae.pipeline.pipeline import LDAEPipeline
from ldae.pipeline.scan_jobs import Sampling, gather_scans

FAST = Sampling(steps=2, decode_steps=3)


@pytest.fixture(scope="module")
def run(
    pipe: LDAEPipeline,
    embeddings: pd.DataFrame,
    diagnosis_head: LinearProbe,
    age_head: RidgeProbe,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A run folder with embeddings and two heads that were fitted on them."""
    folder = tmp_path_factory.mktemp("run")
    write_embeddings(embeddings, folder / "embeddings.parquet")
    for name, head in (("diagnosis", diagnosis_head), ("age", age_head)):
        fitted = fitted_head(
            head,
            std=pipe.statistics.std,
            pipeline=pipe.sha256,
            provenance={"target": name, "embeddings": "../../embeddings.parquet"},
        )
        save_head(folder / "heads" / name, fitted)
    return folder


def sidecar(path: Path) -> Any:
    return json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text())


def test_one_counterfactual(pipe: LDAEPipeline, scans: list[str], run: Path, tmp_path: Path) -> None:
    result = manipulate_scans(
        pipe,
        gather_scans(scans[:1]),
        out=tmp_path,
        head=run / "heads" / "diagnosis",
        targets=[0.1],
        sampling=FAST,
    )
    assert [path.name for path in (*result.paths, *result.maps)] == [
        "sub-00_ses-1_desc-counterfactualDiagnosisAD0p1_T1w.nii.gz",
        "sub-00_ses-1_desc-counterfactualDiagnosisAD0p1Difference_T1w.nii.gz",
    ]
    told = sidecar(result.paths[0])
    assert told["Synthetic"] is True
    assert (told["Target"], told["TargetClass"], told["Seed"], told["Hold"]) == (0.1, "AD", None, [])
    assert told["HeadAfter"] == pytest.approx(0.1, abs=1e-4)
    assert told["Head"] == str(run / "heads" / "diagnosis")
    assert told["CodeDistanceTraining"] == list(pipe.statistics.ranges["code distance"])
    assert told["SupportedByTraining"] == ("within" in told["Verdict"])
    output = json.loads(result.result.read_text())["outputs"][0]
    assert tmp_path / output["path"] == result.paths[0]
    assert tmp_path / output["Difference"] == result.maps[0]


def test_the_difference_is_to_the_reconstruction(
    pipe: LDAEPipeline, scans: list[str], run: Path, tmp_path: Path
) -> None:
    """On the source's own grid and in its own units, 0 outside of what the pipeline sees."""
    result = manipulate_scans(
        pipe, gather_scans(scans[:1]), out=tmp_path, head=run / "heads" / "age", targets=[75], sampling=FAST
    )
    reconstruction = pipe.decode(pipe.encode(scans[0], steps=2), steps=3).save(tmp_path / "plain.nii.gz")
    source = nib.load(scans[0])
    counterfactual, difference = nib.load(result.paths[0]), nib.load(result.maps[0])
    for image in (counterfactual, difference):
        assert image.shape == source.shape
        np.testing.assert_allclose(image.affine, source.affine, atol=1e-4)
    wanted = counterfactual.get_fdata() - nib.load(reconstruction).get_fdata()
    assert np.abs(wanted).max() > 1
    np.testing.assert_allclose(difference.get_fdata(), wanted, atol=1e-2 * np.abs(wanted).max())


def test_results_do_not_overwrite_each_other(
    pipe: LDAEPipeline, scans: list[str], run: Path, tmp_path: Path
) -> None:
    diagnosis, age = run / "heads" / "diagnosis", run / "heads" / "age"
    asked: list[dict[str, Any]] = [
        {"head": diagnosis, "targets": [0.1]},
        {"head": diagnosis, "targets": [0.9]},
        {"head": diagnosis, "targets": [0.1], "target_class": "CN"},
        {"head": diagnosis, "targets": [0.1], "hold": [age]},
        {"head": age, "targets": [60.5]},
    ]
    written = [
        path
        for words in asked
        for path in manipulate_scans(
            pipe, gather_scans(scans[:1]), out=tmp_path, sampling=FAST, **words
        ).paths
    ]
    assert [path.name.split("desc-counterfactual")[1] for path in written] == [
        "DiagnosisAD0p1_T1w.nii.gz",
        "DiagnosisAD0p9_T1w.nii.gz",
        "DiagnosisCN0p1_T1w.nii.gz",
        "DiagnosisAD0p1HoldAge_T1w.nii.gz",
        "Age60p5_T1w.nii.gz",
    ]
    assert all(path.is_file() for path in written)


def test_a_held_head_and_a_held_column_stay(
    pipe: LDAEPipeline, scans: list[str], run: Path, embeddings: pd.DataFrame, tmp_path: Path
) -> None:
    result = manipulate_scans(
        pipe,
        gather_scans(scans[:2]),
        out=tmp_path,
        head=run / "heads" / "diagnosis",
        targets=[0.2, 0.8],
        hold=[str(run / "heads" / "age"), "age"],
        sampling=FAST,
    )
    assert len(result.paths) == 4
    told = sidecar(result.paths[3])
    assert told["HeadAfter"] == pytest.approx(0.8, abs=1e-4)
    assert 0 < told["DirectionKept"] < 1
    head, column = told["Hold"]
    assert (head["Head"], column["Column"]) == (str(run / "heads" / "age"), "age")
    for held in (head, column):
        assert held["After"]["age"] == pytest.approx(held["Before"]["age"], abs=1e-3)
    # the column's probe is fitted on training scans alone
    train = embeddings[embeddings["split"] == "train"]
    codes = train.filter(regex="^y_").to_numpy()
    probe = RidgeProbe().fit(codes, train["age"].to_numpy(), groups=train["subject"].to_numpy())
    code = pipe.encode(scans[1], steps=2).semantic.double().numpy()[None]
    assert column["Before"]["age"] == pytest.approx(float(probe.predict(code)[0]), rel=1e-4)


def test_bad_input_leaves_nothing_behind(
    pipe: LDAEPipeline, scans: list[str], diagnosis_head: LinearProbe, run: Path, tmp_path: Path
) -> None:
    out, found = tmp_path / "out", gather_scans(scans[:2])
    diagnosis, age = run / "heads" / "diagnosis", run / "heads" / "age"
    other = fitted_head(diagnosis_head, std=pipe.statistics.std, pipeline="b" * 64)
    foreign = save_head(tmp_path / "head", other)

    def refuse(error: type[Exception], *, match: str, **words: Any) -> None:
        with pytest.raises(error, match=match):
            manipulate_scans(
                pipe, found, out=out, sampling=FAST, **{"head": diagnosis, "targets": [0.1], **words}
            )

    refuse(CheckpointError, match="bbbbbbbbbbbb", head=foreign)
    refuse(CheckpointError, match="bbbbbbbbbbbb", hold=[foreign])
    refuse(InputError, match="probability above 0 and below 1, got 1", targets=[0.5, 1.0])
    refuse(InputError, match="At least one target", targets=[])
    refuse(InputError, match="must differ in their first six digits", targets=[0.1, 0.10000001])
    refuse(InputError, match=r"target_class must be one of \['AD', 'CN'\], got 'MCI'", target_class="MCI")
    refuse(InputError, match=rf"{scans[0]}: Target must lie between", head=age, targets=[70, 1e7])
    refuse(InputError, match=r"got diagnosis, whose direction is parallel.*\(cosine 1\.0", hold=[diagnosis])
    refuse(InputError, match=r"column of numbers in .*got 'site'. It has: age\.", hold=["site"])
    refuse(FileNotFoundError, match=r"head\.json is missing", hold=[str(run / "heads" / "none")])
    assert not out.exists()


def test_columns_need_a_table_of_this_pipeline(
    pipe: LDAEPipeline, scans: list[str], run: Path, embeddings: pd.DataFrame, tmp_path: Path
) -> None:
    diagnosis = run / "heads" / "diagnosis"
    foreign = embeddings.copy()
    foreign.attrs = {**embeddings.attrs, "pipeline": "c" * 64}
    with pytest.raises(CheckpointError, match="made by pipeline cccccccccccc"):
        pipe.manipulate(scans[0], diagnosis, target=0.1, hold=["age"], embeddings=foreign)
    with pytest.raises(FileNotFoundError, match=r"none\.parquet is missing"):
        pipe.manipulate(scans[0], diagnosis, target=0.1, hold=["age"], embeddings=tmp_path / "none.parquet")


def test_words_name_classes_that_are_numbers() -> None:
    head = LinearProbe(regularisation=[1.0]).fit([[0.0], [1.0], [2.0], [3.0]], [0, 0, 1, 1])
    assert class_named(head, "1") == 1
    assert class_named(head, "AD") == "AD"
    assert class_named(head, None) is None
