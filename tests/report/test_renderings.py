# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import argparse
import shlex
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from ldae.data.artefact import write_json
from ldae.errors import CheckpointError
from ldae.pipeline import LDAEPipeline
from ldae.report.renderings import Viewer, read_jobs, short_path


def test_jobs_are_found_by_verb(finished_run: Path) -> None:
    jobs = read_jobs(finished_run)
    assert set(jobs) == {"reconstruct", "vary", "interpolate", "manipulate"}
    assert len(jobs["vary"].of(jobs["vary"].sources[0])) == 2
    assert len(jobs["interpolate"].sources) == 2


def test_the_command_renders_the_same(finished_run: Path) -> None:
    for verb, job in read_jobs(finished_run).items():
        program, named, *words = shlex.split(job.command(*job.sources))
        assert (program, named) == ("ldae", verb)
        parser = argparse.ArgumentParser()
        import_module(f"ldae.cli.verbs.{verb}").add_arguments(parser)
        args = parser.parse_intermixed_args(words)
        assert (args.steps, args.decode_steps, args.out) == (2, None, job.folder)
    job = read_jobs(finished_run)["manipulate"]
    words = shlex.split(job.command(job.sources[0]))
    assert [words[place + 1] for place, word in enumerate(words) if word == "--target"] == ["0.2", "0.8"]
    assert words[words.index("--target-class") + 1] == "AD"
    assert words[words.index("--hold") + 1] == str(finished_run / "heads" / "age")


def test_paths_are_short_inside_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert short_path(tmp_path / "outputs" / "demo") == "outputs/demo"
    assert short_path("/elsewhere/scan.nii.gz") == "/elsewhere/scan.nii.gz"


def test_records_of_relative_paths_are_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    output = {"path": "out.nii.gz", "source": "scan.nii.gz", "desc": "reconstruction"}
    document = {"verb": "reconstruct", "pipeline": {"folder": "pipeline"}, "outputs": [output]}
    write_json(
        tmp_path / "scans" / "any" / "result.json", {**document, "sources": {"scan.nii.gz": {}}, "maps": []}
    )
    (job,) = read_jobs(tmp_path).values()
    assert job.sources == (tmp_path / "scan.nii.gz",)
    assert job.of(job.sources[0]) == [{**output, "path": str(tmp_path / "scans" / "any" / "out.nii.gz")}]


def test_scan_and_rendering_share_grid_and_scale(finished_run: Path) -> None:
    job = read_jobs(finished_run)["reconstruct"]
    (source,) = job.sources
    viewer = Viewer(LDAEPipeline.from_pretrained(finished_run / "pipeline", device="cpu"))
    scan, plain = viewer.source(source), viewer.autoencoder(source)
    made = viewer.rendered(job.outputs[0]["path"], like=source)
    assert scan.shape == plain.shape == made.shape == (16, 24, 16)
    for volume in (scan, plain, made):
        assert 0 <= volume.min() < volume.max() <= 1
    expected = viewer.pipeline.read(source).data[0].numpy()
    np.testing.assert_allclose(scan, expected, atol=1e-5)
    networks = viewer.pipeline.networks
    again = networks.expand(networks.compress(viewer.pipeline.read(source).data[None]))[0, 0].numpy()
    np.testing.assert_allclose(plain, again, atol=1e-5)
    assert viewer.spacing(source) == pytest.approx((8, 8, 8))


def test_maps_are_shares_of_the_intensity_range(finished_run: Path) -> None:
    jobs = read_jobs(finished_run)
    (source,) = jobs["vary"].sources
    viewer = Viewer(LDAEPipeline.from_pretrained(finished_run / "pipeline", device="cpu"))
    samples = [viewer.rendered(one["path"], like=source) for one in jobs["vary"].of(source)]
    spread, mean = (jobs["vary"].statistic(source, name) for name in ("std", "mean"))
    assert spread is not None
    assert mean is not None
    np.testing.assert_allclose(viewer.map(spread, like=source), np.std(samples, axis=0, ddof=1), atol=1e-5)
    np.testing.assert_allclose(viewer.rendered(mean, like=source), np.mean(samples, axis=0), atol=1e-5)
    assert jobs["vary"].statistic(source, "median") is None
    manipulate = jobs["manipulate"]
    first, last = manipulate.of(source)
    moved = [viewer.rendered(one["path"], like=source) for one in (first, last)]
    changes = [viewer.map(manipulate.difference(one), like=source) for one in (first, last)]
    np.testing.assert_allclose(moved[0] - changes[0], moved[1] - changes[1], atol=1e-4)


def test_a_foreign_record_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "scans" / "other" / "result.json", {"verb": "reconstruct"})
    with pytest.raises(CheckpointError, match="must be a record of a scan verb"):
        read_jobs(tmp_path)
