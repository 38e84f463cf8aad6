# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_sampler import add_tiny_sampler

from ldae.data.artefact import read_json, write_json
from ldae.evaluation.sampling import evaluate_sampling
from ldae.evaluation.summary import KEYS, write_summary
from ldae.pipeline import LDAEPipeline
from ldae.pipeline.samples import sample_scans
from ldae.pipeline.scan_jobs import Sampling
from ldae.report.content import CHAPTERS
from ldae.report.renderings import read_jobs
from ldae.report.run import Run
from ldae.report.sample_section import sample_picture, sampling_table


@pytest.fixture(scope="module")
def sampled(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with a code sampler, scans drawn from it, and its evaluation."""
    run = tmp_path_factory.mktemp("sampled") / "run"
    shutil.copytree(finished_run, run)
    add_tiny_sampler(run)
    given = run / "pipeline", run / "cohort" / "cohort.csv"
    evaluate_sampling(*given, out=run / "evaluation" / "sampling", limit=4, decode_steps=2, device="cpu")
    pipe = LDAEPipeline.from_pretrained(run / "pipeline", device="cpu")
    sample_scans(
        pipe,
        2,
        out=run / "scans" / "sample",
        target_class="AD",
        sampling=Sampling(steps=2),
        embeddings=run / "embeddings.parquet",
    )
    return run


def test_samples_stand_beside_their_nearest_training_scans(sampled: Path) -> None:
    run = Run.open(sampled, device="cpu")
    picture, table = sample_picture(run), sampling_table(run)
    first = read_json(sampled / "scans" / "sample" / "result.json")["outputs"][0]["NearestTrainingScan"]
    assert f"1: {first['Subject']} {first['Session']}, " in picture.caption
    assert f"at {first['Distance']:.1f}" in picture.caption
    words = shlex.split(picture.command)
    assert words[:2] == ["ldae", "sample"]
    told = {word: words[place + 1] for place, word in enumerate(words) if word.startswith("-")}
    assert {**told, "--pipeline": "", "--out": ""} == {
        "-n": "2", "--seed": "0", "--class": "AD", "--steps": "2", "--pipeline": "", "--out": ""
    }  # fmt: skip
    assert list(table.groups) == ["as scans, embedded again", "as codes"]
    rows = {row[0]: row[1:] for row in table.groups["as scans, embedded again"]}
    assert list(rows) == [
        "real scans",
        "training scans",
        "real codes",
        "class Gaussian",
        "code sampler",
        "code sampler, no class",
    ]
    assert all(" to " in row[0] for row in rows.values())


def test_without_embeddings_there_is_no_nearest(sampled: Path, tmp_path: Path) -> None:
    run = Run.open(sampled, device="cpu")
    shutil.copytree(sampled / "scans", tmp_path / "scans")
    record = tmp_path / "scans" / "sample" / "result.json"
    document = read_json(record)
    for output in document["outputs"]:
        del output["NearestTrainingScan"]
    write_json(record, document)
    assert sample_picture(replace(run, jobs=read_jobs(tmp_path))).caption == "Drawn scans."


def test_only_a_run_with_a_sampler_speaks_of_it(finished_run: Path, sampled: Path) -> None:
    parts = next(chapter.parts for chapter in CHAPTERS if chapter.title == "Scans of nobody")
    without, with_one = (Run.open(run, device="cpu") for run in (finished_run, sampled))
    for part in parts:
        assert with_one.has(part.needs)
        assert not without.has(part.needs)
        assert not part.command  # so that it is not named as missing
    summary = read_json(write_summary(sampled))
    assert tuple(summary)[: len(KEYS)] == KEYS
    result = read_json(sampled / "evaluation" / "sampling" / "result.json")
    assert summary["sampler_kid"] == result["values"]["sampler_kid"]
    assert "sampler_kid" not in read_json(write_summary(finished_run))
