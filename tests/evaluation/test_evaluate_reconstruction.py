# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from scipy.stats import kurtosis

from ldae.data.artefact import read_json
from ldae.errors import CheckpointError, InputError
from ldae.evaluation.codes import EncodedScans, encode_scans
from ldae.evaluation.image_metrics import ssim
from ldae.evaluation.material import Material, ScanSet
from ldae.evaluation.reconstruction import _moments, evaluate_reconstruction
from ldae.pipeline.networks import Networks

STEPS = 2


def _all(scans: ScanSet, material: Material) -> EncodedScans:
    return encode_scans(scans, material, steps=STEPS).take(range(len(scans.rows)))


@pytest.fixture(scope="module")
def folder(material: Material) -> Path:
    return evaluate_reconstruction(
        material.pipeline,
        material.cohort,
        out=material.run_dir / "evaluation" / "reconstruction",
        steps=STEPS,
        limit=6,
        device="cpu",
    )


def test_each_kind_is_compared_with_its_references(folder: Path, scan_set: ScanSet) -> None:
    scans = pd.read_csv(folder / "scans.csv")
    count = scans.groupby(["kind", "against"]).size().to_dict()
    assert count == {
        ("autoencoder", "input"): len(scan_set.rows),
        ("reconstruction", "input"): 6,
        ("reconstruction", "autoencoder"): 6,
        ("semantic_only", "input"): 6,
        ("semantic_only", "autoencoder"): 6,
    }
    assert scans[scans["kind"] == "semantic_only"]["subject"].nunique() == 6


def test_numbers_are_means_over_scans_with_intervals_over_subjects(folder: Path) -> None:
    scans, values = pd.read_csv(folder / "scans.csv"), read_json(folder / "result.json")["values"]
    part = scans[(scans["kind"] == "reconstruction") & (scans["against"] == "autoencoder")]
    assert values["reconstruction_ssim"] == pytest.approx(part["ssim"].mean())
    low, high = values["reconstruction_ssim_ci"]
    assert low < values["reconstruction_ssim"] < high


def test_a_scan_is_measured_as_by_hand(folder: Path, material: Material, scan_set: ScanSet) -> None:
    codes = encode_scans(scan_set, material, steps=STEPS).take([0])
    plain = scan_set.pipeline.networks.expand(codes.latents)
    scans = pd.read_csv(folder / "scans.csv").iloc[0]
    assert scans["ssim"] == pytest.approx(float(ssim(plain, scan_set.volumes(scan_set.rows[:1]))), abs=1e-5)


def test_spread_of_the_stochastic_codes_is_over_all_elements(
    folder: Path, material: Material, scan_set: ScanSet
) -> None:
    result = read_json(folder / "result.json")
    noise = _all(scan_set, material).stochastic
    assert result["values"]["noise_code_std"] == pytest.approx(float(noise.double().std()))
    assert result["values"]["noise_code_mean"] == pytest.approx(float(noise.double().mean()))
    assert (result["scans"], result["decoded_scans"]) == (len(noise), 6)


def test_codes_are_those_of_the_pipeline(material: Material, scan_set: ScanSet) -> None:
    codes = _all(scan_set, material)
    volumes = scan_set.volumes(scan_set.rows[3:5])
    semantic, stochastic = scan_set.pipeline.encode_tensors(volumes, steps=STEPS)
    torch.testing.assert_close(codes.semantic[3:5], semantic, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(codes.stochastic[3:5], stochastic, atol=1e-3, rtol=1e-3)


def test_nothing_is_computed_twice(folder: Path, material: Material, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (folder / "result.json").stat().st_mtime_ns
    monkeypatch.setattr(Networks, "to_noise", None)  # stored codes are read, others would fail
    again = evaluate_reconstruction(
        material.pipeline, material.cohort, out=folder, steps=STEPS, limit=6, device="cpu"
    )
    assert (again / "result.json").stat().st_mtime_ns == before
    evaluate_reconstruction(
        material.pipeline, material.cohort, out=folder, steps=STEPS, limit=4, device="cpu"
    )
    assert read_json(folder / "result.json")["decoded_scans"] == 4


def test_damaged_codes_are_made_anew(material: Material, scan_set: ScanSet) -> None:
    expected = _all(scan_set, material).stochastic
    (path, *_) = material.shared.glob(f"*-{STEPS}/*")
    path.write_bytes(b"torn")
    torch.testing.assert_close(_all(scan_set, material).stochastic, expected)


def test_codes_that_go_while_they_are_used_are_told(material: Material, scan_set: ScanSet) -> None:
    codes = encode_scans(scan_set, material, steps=STEPS)
    (path, *_) = codes.walks.paths
    kept = path.read_bytes()
    for spoil in (lambda: path.write_bytes(b"torn"), path.unlink):
        spoil()
        with pytest.raises(CheckpointError, match=r"must hold the codes .* Give the same command again"):
            codes.take([0])
    path.write_bytes(kept)
    torch.testing.assert_close(codes.take([2, 0, 2]).stochastic, codes.take([0, 1, 2]).stochastic[[2, 0, 2]])


def test_codes_of_an_earlier_pipeline_are_removed(material: Material, scan_set: ScanSet) -> None:
    stale, foreign = material.shared / f"{'0' * 16}-ddim-20", material.shared / "notes"
    stale.mkdir(parents=True)
    foreign.mkdir()
    encode_scans(scan_set, material, steps=STEPS)
    assert not stale.exists()
    assert foreign.exists()


def test_one_subject_is_too_few(material: Material, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="limit must be at least 2"):
        evaluate_reconstruction(material.pipeline, material.cohort, out=tmp_path, limit=1)


def test_moments_in_parts_are_those_of_all_elements() -> None:
    noise = 5 + 0.1 * torch.randn(70, 2, 3, generator=torch.Generator().manual_seed(0)) ** 3
    found, elements = _moments(lambda: iter(noise.split(32))), noise.double().flatten().numpy()
    assert found["noise_code_mean"] == pytest.approx(elements.mean(), rel=1e-12)
    assert found["noise_code_std"] == pytest.approx(elements.std(ddof=1), rel=1e-12)
    assert found["noise_code_kurtosis"] == pytest.approx(kurtosis(elements, fisher=False), rel=1e-9)
