# SPDX-License-Identifier: Apache-2.0
"""Damaged tables and documents of a run: a sentence that names them, or made anew; nothing half made."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ldae.cli.main import main
from ldae.data.artefact import read_json

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
STAGES = {"autoencoder": "aekl", "baselines/diagnosis-cnn": "classification"}
OVERLAYS = {"classification": "supervised"}
DAMAGED_COHORTS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "latin-1": (lambda text: text.replace(b"CN", "CÑ".encode("latin-1")), "must be a CSV file in UTF-8"),
    "utf-16": (lambda text: text.decode().encode("utf-16"), "must be a CSV file in UTF-8"),
    "long": (lambda text: text.replace(b"CN", b"x" * 131_073, 1), "field larger than field limit (131072)"),
    "nul": (lambda text: text.replace(b"CN", b"C\0N", 1), "must be a CSV file in UTF-8"),
    "nothing": (lambda text: b"", "must have a header and rows, got an empty file"),
}
# What the page shows of a table, and cannot do without.
TABLES = {
    "evaluation/code/table.csv": b"level",
    "evaluation/comparison/table.csv": b"target",
    "evaluation/counterfactual/scans.csv": b"target",
    "evaluation/counterfactual/truth.csv": b"method",
    "evaluation/counterfactual/truth_scans.csv": b"subject",
    "evaluation/interpolation/table.csv": b"kind",
    "evaluation/reconstruction/table.csv": b"kind",
    "evaluation/solvers/table.csv": b"against",
    "logs/denoiser/version_0/metrics.csv": b"step",
}
FEW = ("--limit", "2", "--steps", "2", "--decode-steps", "2")
EVALUATIONS = (
    ("code", *FEW[:4]),
    ("comparison",),
    ("counterfactual", *FEW),
    ("interpolation", *FEW),
    ("reconstruction", *FEW),
    ("reconstruction", "--sweep", "--solver", "ddim", *FEW),
)


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder that are its own."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def fit(run: Path, name: str, *more: str) -> list[object]:
    overlay = ROOT / "tests" / "tiny" / f"{OVERLAYS.get(name, name)}.yaml"
    return ["fit", "--config", f"demo/{name}.yaml", "--config", overlay, "--run_dir", run, *more]


# --- fit ----------------------------------------------------------------------------------------------


@pytest.fixture
def cohort(tiny_run: Path, tmp_path: Path) -> Path:
    """A cohort's table of one's own, beside the tiny run's scans, in a run folder."""
    folder = tmp_path / "run" / "cohort"
    folder.mkdir(parents=True)
    (folder / "scans").symlink_to(tiny_run / "cohort" / "scans")
    (tmp_path / "run" / "cache").symlink_to(tiny_run / "cache")
    return Path(shutil.copy(tiny_run / "cohort" / "cohort.csv", folder))


@pytest.mark.parametrize("damage", DAMAGED_COHORTS)
@pytest.mark.parametrize("kind", STAGES)
def test_fit_on_a_damaged_cohort(cohort: Path, ldae, kind: str, damage: str) -> None:
    spoil, told = DAMAGED_COHORTS[damage]
    run, whole = cohort.parents[1], cohort.read_bytes()
    cohort.write_bytes(spoil(whole))
    before = contents(run)
    said = ldae(*fit(run, STAGES[kind]))
    assert said.code == 2
    assert said.err.startswith("ldae: A cohort must ")
    assert said.err.count("\n") == 1
    assert told in said.err
    assert str(cohort) in said.err
    assert contents(run) == before


def test_fit_on_a_cohort_damaged_since(cohort: Path, ldae) -> None:
    run, whole = cohort.parents[1], cohort.read_bytes()
    words = fit(run, "aekl", "--trainer.max_epochs", "1")
    assert ldae(*words).code == 0
    made = contents(run / "autoencoder")
    for spoil, _ in DAMAGED_COHORTS.values():
        cohort.write_bytes(spoil(whole))
        said = ldae(*words)
        assert said.code == 2
        assert said.err.startswith(f"ldae: The inputs must be those of {run / 'checkpoints' / 'autoencoder'}")
        assert "cohort changed since" in said.err
        assert said.err.count("\n") == 1
        assert contents(run / "autoencoder") == made
    cohort.write_bytes(whole)
    assert "is up to date" in ldae(*words).out


# --- report -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run with evaluations of its own, which its page can be made of."""
    run = tmp_path_factory.mktemp("measured") / "run"
    run.mkdir()
    for part in ("cohort", "cache", "embeddings.parquet", "pipeline"):
        (run / part).symlink_to(tiny_run / part)
    for part in ("heads", "logs"):
        shutil.copytree(tiny_run / part, run / part)
    for words in EVALUATIONS:
        assert main(["evaluate", *words, "--run-dir", str(run)]) == 0
    yield run
    assert main(["report", "--run-dir", str(run)]) == 0


@pytest.mark.parametrize("damage", ["column", "latin-1", "noise", "nothing"])
@pytest.mark.parametrize("name", TABLES)
def test_report_of_a_damaged_table(measured: Path, ldae, name: str, damage: str) -> None:
    path = measured / name
    whole = path.read_bytes()
    header, line, rest = whole.partition(b"\n")
    assert TABLES[name] in header.split(b",")
    renamed = b",".join(b"other" if word == TABLES[name] else word for word in header.split(b","))
    path.write_bytes(
        {
            "column": renamed + line + rest,
            "latin-1": header + line + "é".encode("latin-1") + rest,
            "noise": bytes(range(256)) * 3,
            "nothing": b"",
        }[damage]
    )
    try:
        said = ldae("report", "--run-dir", measured)
    finally:
        path.write_bytes(whole)
    folder = measured / ("logs/*/*" if name.startswith("logs") else path.parent.relative_to(measured))
    assert said.code == 2
    assert said.err.startswith(f"ldae: {folder} must be as ldae wrote it, but ")
    assert said.err.endswith(". Make it anew or copy it whole.\n")
    assert said.err.count("\n") == 1
    assert not (measured / "report.html").exists()
    assert not list(measured.rglob(".partial*"))


# --- sample and assemble ------------------------------------------------------------------------------


def test_sample_beside_a_table_that_is_not_utf_8(
    tiny_run: Path, branch: Callable[..., Path], tmp_path: Path, ldae
) -> None:
    run = branch("run", "cohort", "autoencoder", "denoiser", "representation", "embeddings.parquet")
    shutil.copytree(tiny_run / "pipeline", run / "pipeline")
    assert ldae(*fit(run, "code_sampler", "--trainer.max_epochs", "1")).code == 0
    out = tmp_path / "out"
    words = ("sample", "--pipeline", run / "pipeline", "-n", 1, "--steps", 2, "--out", out)
    out.mkdir()
    for content in ("desc_id\tdescription\nsample\té\n".encode("latin-1"), b"\xff\xfe\0"):
        (out / "descriptions.tsv").write_bytes(content)
        said = ldae(*words)
        assert said.code == 2
        assert f"{out / 'descriptions.tsv'} must be as ldae wrote it" in said.err
        assert said.err.count("\n") == 1
        assert (out / "descriptions.tsv").read_bytes() == content
        assert {path.name for path in out.iterdir()} <= {"descriptions.tsv", "dataset_description.json"}
    (out / "descriptions.tsv").unlink()
    assert ldae(*words).code == 0


@pytest.mark.parametrize("text", ["[1]", '{"extra": 3}', ""])
def test_assemble_beside_damaged_statistics(
    tiny_run: Path, branch: Callable[..., Path], ldae, text: str
) -> None:
    run = branch("run", "cohort", "cache", "autoencoder", "denoiser", "representation")
    shutil.copytree(tiny_run / "pipeline", run / "pipeline")
    path = run / "pipeline" / "statistics" / "config.json"
    path.write_text(text)
    said = ldae("assemble", "--run-dir", run)
    assert said.code == 0, said.err
    whole, made = read_json(tiny_run / "pipeline" / "statistics" / "config.json"), read_json(path)
    assert made["config"] == whole["config"]
    assert made["parents"] == whole["parents"]
