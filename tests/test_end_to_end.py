# SPDX-License-Identifier: Apache-2.0
"""A pipeline trained through the command line, and what the other verbs make of it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from nibabel.orientations import axcodes2ornt

from ldae.cli.main import main
from ldae.data.artefact import component_sha256, read_json
from ldae.data.cache import VolumeCache
from ldae.data.cohort import read_cohort
from ldae.data.split import split_hash
from ldae.pipeline import LDAEPipeline

CODE_SIZE = 16
ROOT = Path(__file__).resolve().parents[1]
VERBS = {
    "reconstruct": ["SCAN"],
    "vary": ["SCAN", "-n", "2"],
    "interpolate": ["SCAN", "OTHER", "--fraction", "0.5"],
    "manipulate": ["SCAN", "--head", "RUN/heads/age", "--target", "70"],
}


@pytest.fixture(scope="session")
def test_rows(tiny_run: Path) -> pd.DataFrame:
    frame = read_cohort(tiny_run / "cohort" / "cohort.csv")
    return frame[frame["split"] == "test"]


@pytest.fixture(scope="session")
def pipe(tiny_run: Path) -> LDAEPipeline:
    return LDAEPipeline.from_pretrained(tiny_run / "pipeline", device="cpu")


@pytest.fixture(scope="session")
def oblique(test_rows: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A test subject's scan as another scanner might store it: axes L, I, A, turned, moved, a slice more."""
    image = nib.load(test_rows["path"].iloc[0])
    turned = image.as_reoriented(
        nib.orientations.ornt_transform(nib.io_orientation(image.affine), axcodes2ornt("LIA"))
    )
    angle = np.radians(7)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    turn[:3, 3] = [4.0, -6.0, 3.0]
    path = tmp_path_factory.mktemp("oblique") / "sub-x_T1w.nii.gz"
    voxels = np.pad(turned.get_fdata(dtype=np.float32), ((0, 1), (0, 0), (0, 0)))
    nib.save(nib.Nifti1Image(voxels, turn @ turned.affine), path)
    return path


def test_every_artefact_names_its_parents(tiny_run: Path) -> None:
    sha = {kind: component_sha256(tiny_run / kind) for kind in ("autoencoder", "denoiser", "representation")}
    documents = {kind: read_json(tiny_run / kind / "config.json") for kind in sha}
    assert documents["autoencoder"]["parents"] == {}
    assert documents["denoiser"]["parents"] == {"autoencoder": sha["autoencoder"]}
    assert documents["representation"]["parents"] == {
        "autoencoder": sha["autoencoder"],
        "denoiser": sha["denoiser"],
    }
    split = split_hash(read_cohort(tiny_run / "cohort" / "cohort.csv", check="table"))
    store = read_json(tiny_run / "latents" / "store.json")
    assert store["autoencoder"] == sha["autoencoder"]
    index = read_json(tiny_run / "pipeline" / "model_index.json")
    assert {kind: index["components"][kind]["sha256"] for kind in sha} == sha
    assert {document["split"] for document in (*documents.values(), store, index)} == {split}
    for name in ("diagnosis", "age"):
        assert read_json(tiny_run / "heads" / name / "head.json")["pipeline"] == index["sha256"]


def test_files_of_the_run_folder(tiny_run: Path) -> None:
    names = [
        *(
            f"{kind}/{name}"
            for kind in ("autoencoder", "denoiser", "representation")
            for name in ("config.json", "model.safetensors")
        ),
        *(f"checkpoints/{kind}/last.ckpt" for kind in ("autoencoder", "denoiser", "representation")),
        "latents/index.csv",
        "latents/stats.safetensors",
        "embeddings.parquet",
        *(
            f"heads/{target}/{name}"
            for target in ("diagnosis", "age")
            for name in ("head.json", "head.safetensors", "metrics.json", "predictions.csv")
        ),
    ]
    assert [name for name in names if not (tiny_run / name).is_file()] == []


def test_columns_of_the_embeddings(tiny_run: Path) -> None:
    frame = pd.read_parquet(tiny_run / "embeddings.parquet")
    cohort = read_cohort(tiny_run / "cohort" / "cohort.csv", check="table")
    assert list(frame.columns[:6]) == ["subject", "session", "split", "path", "diagnosis", "age"]
    codes = frame.filter(regex=r"^y_")
    assert list(codes.columns) == [f"y_{index:03d}" for index in range(CODE_SIZE)]
    assert len(frame) == len(cohort)
    assert np.isfinite(codes.to_numpy()).all()
    assert (codes.std() > 0).all()


def test_columns_of_the_predictions(tiny_run: Path) -> None:
    frame = pd.read_csv(tiny_run / "heads" / "diagnosis" / "predictions.csv")
    assert set(frame.columns) == {"subject", "session", "split", "y_true", "y_pred", "p_AD", "p_CN"}
    assert "test" in set(frame["split"])
    np.testing.assert_allclose(frame["p_AD"] + frame["p_CN"], 1, atol=1e-6)


def test_a_test_scan_there_and_back(pipe: LDAEPipeline, test_rows: pd.DataFrame) -> None:
    path = test_rows["path"].iloc[0]
    code = pipe.encode(path, steps=5)
    assert code.semantic.shape == (CODE_SIZE,)
    assert code.stochastic.shape == (3, 4, 6, 4)
    scan = pipe.decode(code, steps=5)
    assert scan.data.shape == (1, 16, 24, 16)
    assert bool(torch.isfinite(scan.data).all())
    torch.testing.assert_close(scan.data, pipe.reconstruct(path, steps=5).data)


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_writes_in_the_space_of_the_source(
    tiny_run: Path, test_rows: pd.DataFrame, oblique: Path, tmp_path: Path, verb: str
) -> None:
    stands_for = {
        "SCAN": str(oblique),
        "OTHER": test_rows["path"].iloc[1],
        "RUN/heads/age": str(tiny_run / "heads/age"),
    }
    words = [stands_for.get(word, word) for word in VERBS[verb]]
    pipeline = ["--pipeline", str(tiny_run / "pipeline"), "--device", "cpu"]
    assert main([verb, *words, *pipeline, "--steps", "3", "--out", str(tmp_path)]) == 0
    source = nib.load(oblique)
    written = sorted(tmp_path.rglob("*.nii.gz"))
    # two variations, their mean and standard deviation; a counterfactual and what it changed
    assert len(written) == {"vary": 4, "manipulate": 2}.get(verb, 1)
    for path in written:
        image = nib.load(path)
        assert image.shape == source.shape
        np.testing.assert_allclose(image.affine, source.affine, atol=1e-4)
        assert np.isfinite(image.get_fdata()).all()
        assert read_json(path.with_name(path.name.replace(".nii.gz", ".json")))["Synthetic"] is True


def test_check_tells_what_differs(
    tiny_run: Path, oblique: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["check", str(oblique), "--pipeline", str(tiny_run / "pipeline"), "--out", str(tmp_path)]
    assert main(words) == 0
    assert "LIA" in capfd.readouterr().out
    document = json.loads((tmp_path / "check.json").read_text())
    assert len(document) == 1


def test_check_fails_where_a_scan_would_be_refused(
    tiny_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    nib.save(nib.Nifti1Image(np.random.default_rng(0).random((16, 24, 8, 2)), np.eye(4)), tmp_path / "4d.nii")
    assert main(["check", str(tmp_path / "4d.nii"), "--pipeline", str(tiny_run / "pipeline")]) == 2
    assert "PROBLEM" in capfd.readouterr().out


def test_test_measures_the_exported_networks_on_test_scans(
    tiny_run: Path,
    test_rows: pd.DataFrame,
    pipe: LDAEPipeline,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for part in ("cohort", "cache", "autoencoder", "denoiser", "latents", "checkpoints"):
        (tmp_path / part).symlink_to(tiny_run / part)
    found: dict[str, float] = {}
    for name in ("aekl", "ldae_pretrain", "ldae_repr_learn"):
        overlay = ROOT / "tests" / "tiny" / f"{name}.yaml"
        words = ["--config", f"demo/{name}.yaml", "--config", str(overlay), "--run_dir", str(tmp_path)]
        assert main(["test", *words]) == 0
        said = re.findall(r"test/(\w+)\D+([0-9.]+(?:e-?\d+)?)", capfd.readouterr().out)
        found |= {f"{name} {key}": float(value) for key, value in said}
    errors = []
    net = pipe.networks.autoencoder
    for path in test_rows["path"]:
        x = torch.from_numpy(VolumeCache(tiny_run / "cache", pipe.spec).volume(path).astype(np.float32))
        with torch.inference_mode():
            again = net.decode(net.encode(x[None, None])[0]).clamp(0, 1)
        errors.append(float((again - x).abs().mean()))
    assert found["aekl l1"] == pytest.approx(np.mean(errors), rel=1e-3)
    assert found["ldae_pretrain loss"] > 0
    assert {"ldae_repr_learn right", "ldae_repr_learn shuffled", "ldae_repr_learn none"} <= found.keys()


@pytest.mark.parametrize(
    ("name", "words", "told"),
    [
        (
            "ldae_pretrain",
            ["--model.init_args.prediction", "eps"],
            "prediction eps (was v). Give test",
        ),
        ("aekl", ["--data.init_args.spacing", "[8, 8, 8]"], "data.init_args.spacing [8.0, 8.0, 8.0] (was"),
        (
            "aekl",
            ["--data.init_args.cohort", "SWAPPED"],
            "cohort changed since. Give test what fit was",
        ),
    ],
)
def test_test_refuses_what_the_stage_was_not_trained_with(
    tiny_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, words: list[str], told: str
) -> None:
    for part in ("cache", "autoencoder", "denoiser", "latents", "checkpoints", "cohort"):
        (tmp_path / part).symlink_to(tiny_run / part)
    frame = read_cohort(tiny_run / "cohort" / "cohort.csv")
    swapped = frame["split"].map({"train": "test", "test": "train"}).fillna(frame["split"])
    frame.assign(split=swapped).to_csv(tmp_path / "swapped.csv", index=False)
    words = [str(tmp_path / "swapped.csv") if word == "SWAPPED" else word for word in words]
    base = ["--config", f"demo/{name}.yaml", "--config", str(ROOT / "tests" / "tiny" / f"{name}.yaml")]
    assert main(["test", *base, "--run_dir", str(tmp_path), "--data.init_args.batch_size", "2"]) == 0
    capfd.readouterr()
    assert main(["test", *base, "--run_dir", str(tmp_path), *words]) == 2
    assert told in capfd.readouterr().err


def test_fit_again_says_up_to_date(tiny_run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name, kind in (
        ("aekl", "autoencoder"),
        ("ldae_pretrain", "denoiser"),
        ("ldae_repr_learn", "representation"),
    ):
        before = (tiny_run / kind / "config.json").stat().st_mtime_ns
        overlay = ROOT / "tests" / "tiny" / f"{name}.yaml"
        words = ["--config", f"demo/{name}.yaml", "--config", str(overlay), "--run_dir", str(tiny_run)]
        assert main(["fit", *words]) == 0
        assert "is up to date" in capfd.readouterr().out
        assert (tiny_run / kind / "config.json").stat().st_mtime_ns == before


def test_a_head_of_another_pipeline_is_refused(
    tiny_run: Path, oblique: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    head = shutil.copytree(tiny_run / "heads" / "age", tmp_path / "age")
    document = read_json(head / "head.json")
    own, other = document["pipeline"], "0" * 64
    (head / "head.json").write_text(json.dumps({**document, "pipeline": other}))
    words = ["--pipeline", str(tiny_run / "pipeline"), "--head", str(head), "--target", "70"]
    assert main(["manipulate", str(oblique), *words, "--out", str(tmp_path / "out")]) == 2
    said = capfd.readouterr().err
    assert own[:12] in said
    assert other[:12] in said
    assert not list(tmp_path.rglob("*.nii.gz"))
