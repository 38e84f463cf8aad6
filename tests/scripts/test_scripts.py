# SPDX-License-Identifier: Apache-2.0
"""The published entry points: their flags, what they write, and what they say to wrong input."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from ldae.data.spec import PreprocessingSpec
from ldae.errors import CheckpointError, InputError
from ldae.nets.autoencoder import Autoencoder, AutoencoderConfig
from ldae.pipeline.embeddings import code_array, read_embeddings, write_embeddings
from ldae.pipeline.head_folder import load_head
from ldae.stages.components import load_autoencoder

Script = Callable[[str], ModuleType]
SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
FLAGS = {
    "save_compressed_latent": ("--csv_path", "--ae_model_path"),
    "save_semantic_latent": (
        "--csv_path",
        "--model_path",
        "--config_path",
        "--model_name",
        "--target_model",
        "--suffix",
    ),
    "train_manipulation": (
        "--train_on_age",
        "--train_data_path",
        "--test_data_path",
        "--suffix",
        "--target_classes",
    ),
    "convert_checkpoint": ("--source", "--kind", "--out"),
}
HELP_WITHOUT_TORCH = """
import runpy, sys
sys.argv = [sys.argv[1], "--help"]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as stop:
    slow = [name for name in ("torch", "monai", "lightning", "pandas") if name in sys.modules]
    sys.exit(f"imported {slow}" if slow else stop.code)
"""


@pytest.mark.parametrize("name", FLAGS)
def test_help_names_the_published_flags_and_imports_nothing_slow(name: str) -> None:
    path = SCRIPTS / f"{name}.py"
    done = subprocess.run(
        [sys.executable, "-c", HELP_WITHOUT_TORCH, str(path)],
        capture_output=True,
        text=True,
        cwd=SCRIPTS,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [flag for flag in FLAGS[name] if flag not in done.stdout] == []


def run(name: str, *words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPTS / f"{name}.py"), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("train_manipulation", ["--suffix", "x"], "the following arguments are required: --train_data_path"),
        (
            "train_manipulation",
            [
                "--train_data_path",
                "a.pt",
                "--test_data_path",
                "b.pt",
                "--suffix",
                "x",
                "--target_classes",
                "0",
            ],
            r"^train_manipulation\.py: --target_classes must be two or three different ones of CN, MCI, AD "
            r".* got 0\.$",
        ),
        (
            "save_compressed_latent",
            ["--csv_path", "none.csv", "--ae_model_path", "none"],
            r"^save_compressed_latent\.py: .*none\.csv",
        ),
    ],
)
def test_mistakes_exit_with_2_and_one_sentence(
    tmp_path: Path, name: str, words: list[str], message: str
) -> None:
    done = run(name, *words, cwd=tmp_path)
    assert done.returncode == 2
    assert re.search(message, done.stderr, re.MULTILINE)
    assert "Traceback" not in done.stderr


@pytest.fixture
def cohort(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of the tiny cohort's folder."""
    shutil.copytree(tiny_run / "cohort", tmp_path / "cohort")
    return tmp_path / "cohort" / "cohort.csv"


def test_latents_are_written_once(
    script: Script, tiny_run: Path, cohort: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main = script("save_compressed_latent").main
    words = ["--csv_path", str(cohort), "--ae_model_path", str(tiny_run / "autoencoder")]
    main(words)
    table = pd.read_csv(cohort.with_name("cohort_with_compressed_latent.csv"))
    before = pd.read_csv(cohort)
    pd.testing.assert_frame_equal(table.drop(columns="latent_path"), before, check_dtype=False)
    stored = load_file(cohort.parent / table["latent_path"][3])
    autoencoder, component = load_autoencoder(tiny_run / "autoencoder")
    spec = PreprocessingSpec.from_dict(component.spec)
    with torch.no_grad():
        mean, sigma = autoencoder.encode(spec.apply(cohort.parent / table["path"][3]).data[None])
    torch.testing.assert_close(stored["mean"], mean[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(stored["sigma"], sigma[0], rtol=1e-4, atol=1e-5)
    capsys.readouterr()
    main(words)
    assert f"0 of {len(table)} scans were compressed" in capsys.readouterr().out


def old_autoencoder(path: Path) -> Autoencoder:
    """A state dict in MONAI Generative's names."""
    torch.manual_seed(0)
    autoencoder = Autoencoder(AutoencoderConfig(channels=(32, 32), res_blocks=1)).eval()
    state = autoencoder.net.state_dict()
    torch.save({name.replace(".postconv.", ".conv."): value for name, value in state.items()}, path)
    return autoencoder


def test_latents_of_an_older_checkpoint(script: Script, cohort: Path, tmp_path: Path) -> None:
    autoencoder = old_autoencoder(tmp_path / "aekl.pth")
    grid = ["--size", "16", "24", "16", "--spacing", "8", "8", "8"]
    script("save_compressed_latent").main(
        ["--csv_path", str(cohort), "--ae_model_path", str(tmp_path / "aekl.pth"), *grid]
    )
    table = pd.read_csv(cohort.with_name("cohort_with_compressed_latent.csv"))
    converted, component = load_autoencoder(cohort.parent / "cohort_autoencoder")
    assert component.spec["upper_percentile"] == 100
    x = torch.rand(1, 1, 16, 24, 16)
    with torch.no_grad():
        assert torch.equal(converted.encode(x)[0], autoencoder.encode(x)[0])
    assert load_file(cohort.parent / table["latent_path"][0])["mean"].shape == (3, 8, 12, 8)


def test_conversion_tells_what_it_wrote(
    script: Script, cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old_autoencoder(tmp_path / "aekl.pth")
    words = ["--source", str(tmp_path / "aekl.pth"), "--kind", "autoencoder", "--out", str(tmp_path / "new")]
    script("convert_checkpoint").main([*words, "--size", "16", "24", "16", "--cohort", str(cohort)])
    component = load_autoencoder(tmp_path / "new")[1]
    assert component.split is not None
    assert component.extra["converted_from"].keys() == {"aekl.pth"}
    assert capsys.readouterr().out == f"wrote {tmp_path / 'new'} (sha256 {component.sha256[:12]})\n"


@pytest.fixture
def tables(
    script: Script, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Path]:
    """Tables of codes by split, written into the working directory."""
    monkeypatch.chdir(tmp_path)
    words = ["--csv_path", tiny_run / "cohort" / "cohort.csv", "--model_path", tiny_run / "pipeline"]
    script("save_semantic_latent").main([*map(str, words), "--suffix", "v1"])
    return {path.name.split("_")[1]: path for path in sorted(tmp_path.glob("*.parquet"))}


def test_codes_are_written_by_split(tables: dict[str, Path], tiny_run: Path) -> None:
    cohort = pd.read_csv(tiny_run / "cohort" / "cohort.csv")
    assert tables.keys() == set(cohort["split"])
    assert tables["train"].name == "ldae_train_embeddings_and_labels_v1_ema_encoder.parquet"
    for split, path in tables.items():
        table = read_embeddings(path)
        assert set(table["split"]) == {split}
        assert len(table) == (cohort["split"] == split).sum()
        assert code_array(table).shape == (len(table), 12)
        assert np.isfinite(code_array(table)).all()
        assert {"pipeline", "code_std", "split"} <= table.attrs.keys()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--target_model", "encoder"], "--target_model must be ema_encoder, got 'encoder'"),
        (["--model_name", "../x"], r"--model_name must be a word for file names, got '\.\./x'"),
        (["--config_path", "none.yaml"], "--config_path must be a file, got none.yaml"),
        (["--config_path", "other.yaml"], "without model.init_args.encoder"),
        (
            ["--config_path", "own.yaml"],
            r"own\.yaml says code_size 768 for 12, pooling 'attention' for 'tokens'\. Give",
        ),
        (["--config_path", "published.yaml"], r"published\.yaml says code_size 768 for 12\. Give"),
        (
            ["--model_path", "last.ckpt"],
            r"--model_path must be the folder of a pipeline, got the file last\.ckpt\. Convert",
        ),
    ],
)
def test_flags_of_the_published_script_are_checked(
    script: Script,
    tiny_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.yaml").write_text("model: {init_args: {unet: {}}}\n")
    own = "model: {init_args: {encoder: {code_size: 768, pooling: attention, plane: axial}}}\n"
    (tmp_path / "own.yaml").write_text(own)
    published = "fit: {model: {init_args: {enc_args: {emb_chans: 768}}}, data: {slicing_plane: axial}}\n"
    (tmp_path / "published.yaml").write_text(published)
    (tmp_path / "last.ckpt").write_bytes(b"")
    base = ["--csv_path", str(tiny_run / "cohort" / "cohort.csv"), "--model_path", str(tiny_run / "pipeline")]
    with pytest.raises((InputError, FileNotFoundError), match=message):
        script("save_semantic_latent").main([*base, *words])


def test_a_matching_config_passes(script: Script, tiny_run: Path, tmp_path: Path) -> None:
    from ldae.pipeline.pipeline import LDAEPipeline

    config = LDAEPipeline.from_pretrained(tiny_run / "pipeline", device="cpu").networks.encoder.config
    (tmp_path / "own.yaml").write_text(
        "model: {init_args: {encoder: {code_size: 12, normalisation: whiten}}}\n"
    )
    script("save_semantic_latent").check_config(tmp_path / "own.yaml", config)


def strengthened(path: Path, *, seed: int, subjects: int = 40) -> Path:
    """The table with more subjects and codes that tell age and diagnosis."""
    table = read_embeddings(path)
    random = np.random.default_rng(seed)
    rows = table.iloc[np.arange(subjects) % len(table)].reset_index(drop=True)
    ages = random.uniform(60, 90, subjects)
    sick = np.arange(subjects) % 2
    codes = random.normal(size=(subjects, 12))
    codes[:, 0] += 3 * sick
    codes[:, 1] = (ages - 75) / 5
    rows = rows.assign(subject=[f"{seed}-{index}" for index in range(subjects)], age=ages)
    rows = rows.assign(diagnosis=np.where(sick, "AD", "CN"))
    rows[[f"y_{index:03d}" for index in range(12)]] = codes
    rows.attrs = dict(table.attrs)
    write_embeddings(rows, path)
    return path


@pytest.mark.parametrize(
    ("words", "metric", "bound"),
    [
        (["--train_on_age=False", "--target_classes", "0", "1"], "auc", 0.9),
        (["--target_classes", "CN", "AD"], "auc", 0.9),
        (["--train_on_age=True"], "r2", 0.9),
        (["--train_on_age"], "r2", 0.9),
    ],
)
def test_heads_are_fitted_and_judged(
    script: Script, tables: dict[str, Path], words: list[str], metric: str, bound: float
) -> None:
    train, test = strengthened(tables["train"], seed=0), strengthened(tables["test"], seed=1)
    data = ["--train_data_path", str(train), "--test_data_path", str(test), "--suffix", "ad_vs_cn"]
    script("train_manipulation").main([*data, *words])
    folder = Path("heads/ad_vs_cn")
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics[metric] > bound
    assert metrics[f"{metric}_ci"][0] <= metrics[metric] <= metrics[f"{metric}_ci"][1]
    predictions = pd.read_csv(folder / "predictions.csv")
    assert set(predictions["split"]) == {"train", "test"}
    assert len(predictions) == 80
    fitted = load_head(folder)
    assert fitted.pipeline == read_embeddings(train).attrs["pipeline"]
    if metric == "auc":
        assert fitted.head.positive_label_ == "AD"
        assert list(predictions.columns)[-2:] == ["p_AD", "p_CN"]


def test_a_subject_in_both_tables_is_refused(script: Script, tables: dict[str, Path]) -> None:
    with pytest.raises(InputError, match=r"Subjects must be in one table only, got \d+ in .*: sub-"):
        script("train_manipulation").join_tables(tables["train"], tables["train"])


def test_tables_of_two_pipelines_are_refused(script: Script, tables: dict[str, Path]) -> None:
    table = read_embeddings(tables["test"])
    table.attrs["pipeline"] = "0" * 64
    write_embeddings(table, tables["test"])
    with pytest.raises(CheckpointError, match=r"of one pipeline, but .* and .* of 000000000000"):
        script("train_manipulation").join_tables(tables["train"], tables["test"])


def test_published_tables_are_refused(script: Script) -> None:
    with pytest.raises(InputError, match=r"got train\.pt: the published code stores labels as numbers"):
        script("train_manipulation").join_tables(Path("train.pt"), Path("test.pt"))


@pytest.mark.parametrize("words", [["AD"], ["0", "AD"], ["CN", "SMC"], ["7", "8"]])
def test_classes_must_be_known_and_different(script: Script, words: list[str]) -> None:
    with pytest.raises(
        InputError, match="--target_classes must be two or three different ones of CN, MCI, AD"
    ):
        script("train_manipulation").find_classes(words)


def test_a_class_without_scans_is_said(script: Script, tables: dict[str, Path]) -> None:
    data = [
        "--train_data_path",
        str(tables["train"]),
        "--test_data_path",
        str(tables["test"]),
        "--suffix",
        "x",
    ]
    with pytest.raises(InputError, match=r"must have scans in split train, got none of MCI"):
        script("train_manipulation").main([*data, "--target_classes", "2", "1"])
