# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ldae.cli.main import main
from ldae.data.artefact import read_json
from ldae.errors import InputError
from ldae.evaluation.image_metrics import mse, psnr, ssim
from ldae.evaluation.material import Material, ScanSet
from ldae.evaluation.record import read_result
from ldae.evaluation.solvers import evaluate_solvers
from ldae.evaluation.sweep import JudgedScans, plan_walks
from ldae.pipeline.networks import Networks

SOLVERS = ("exact", "dpm++2m")
STEPS, DOWN = (2, 3), (3, 2)
LIMIT = 4


def sweep(material: Material, out: Path, **changes) -> Path:
    options = {"solvers": SOLVERS, "steps": STEPS, "decode_steps": DOWN, "limit": LIMIT, **changes}
    return evaluate_solvers(material.pipeline, material.cohort, out=out, device="cpu", **options)


@pytest.fixture(scope="module")
def folder(material: Material) -> Path:
    return sweep(material, material.run_dir / "evaluation" / "solvers")


@pytest.fixture(scope="module")
def table(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "table.csv")


@pytest.fixture(scope="module")
def scans(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "scans.csv")


def row(table: pd.DataFrame, **wanted) -> pd.Series:
    wanted = {"against": "autoencoder", "region": "whole", **wanted}
    (found,) = [
        line for _, line in table.iterrows() if all(line[key] == value for key, value in wanted.items())
    ]
    return found


def test_every_combination_has_its_rows(table: pd.DataFrame) -> None:
    walks = table[(table["against"] == "input") & (table["region"] == "brain")]
    kinds = walks.groupby(["kind", "solver"], dropna=False).size().to_dict()
    assert {(kind, solver): n for (kind, solver), n in kinds.items() if isinstance(solver, str)} == {
        ("reconstruction", "exact"): 2,
        ("reconstruction", "dpm++2m"): 4,
        ("lddim", "exact"): 2,
        ("lddim", "dpm++2m"): 2,
        ("semantic_only", "exact"): 2,
        ("semantic_only", "dpm++2m"): 2,
    }
    alone = table[table["kind"] == "autoencoder"]
    assert sorted(alone["region"]) == ["brain", "whole"]
    assert set(alone["against"]) == {"input"}
    assert (table["scans"] == LIMIT).all()


def test_a_walk_is_measured_as_by_hand(scans: pd.DataFrame, scan_set: ScanSet) -> None:
    chosen = scans[(scans["kind"] == "reconstruction") & (scans["solver"] == "dpm++2m")]
    chosen = chosen[(chosen["encode_steps"] == 2) & (chosen["decode_steps"] == 3)]
    first = chosen[chosen["subject"] == chosen["subject"].iloc[0]].set_index(["against", "region"])
    rows = scan_set.rows[
        (scan_set.rows["subject"] == chosen["subject"].iloc[0])
        & (scan_set.rows["session"] == chosen["session"].iloc[0])
    ]
    networks, volume = scan_set.pipeline.networks, scan_set.volumes(rows)
    latent, code = networks.compress(volume), networks.describe(volume)
    noise, _ = networks.to_noise(latent, code, steps=2, solver="dpm++2m")
    back = networks.from_noise(noise, code, steps=3, solver="dpm++2m")
    image, brain = networks.expand(back), volume > 0
    whole, inside = first.loc["input", "whole"], first.loc["input", "brain"]
    assert whole["ssim"] == pytest.approx(float(ssim(image, volume)), abs=1e-4)
    assert inside["ssim"] == pytest.approx(float(ssim(image, volume, mask=brain)), abs=1e-4)
    assert inside["psnr"] == pytest.approx(float(psnr(image, volume, mask=brain)), abs=1e-2)
    plain = networks.expand(latent)
    assert first.loc["autoencoder", "whole"]["mse"] == pytest.approx(float(mse(image, plain)), rel=1e-2)
    assert whole["latent_error"] == pytest.approx(float((back - latent).abs().max()), rel=1e-2)


def test_exact_comes_back_and_says_what_it_keeps(table: pd.DataFrame, scan_set: ScanSet) -> None:
    back = row(table, kind="reconstruction", solver="exact", encode_steps=2)
    other = row(table, kind="reconstruction", solver="dpm++2m", encode_steps=2, decode_steps=2)
    assert back["latent_error"] < 1e-3 < other["latent_error"]
    assert back["ssim"] > 0.999
    assert back["network_calls"] == 4
    latent = scan_set.pipeline.networks.compress(scan_set.volumes(scan_set.rows[:1]))
    assert back["auxiliary_bytes"] == 4 * latent.numel() + 8
    assert other["auxiliary_bytes"] == 0
    assert (back["encode_seconds"] > 0) & (back["decode_seconds"] > 0)


def test_noise_is_described_over_all_elements_with_intervals(
    table: pd.DataFrame, scans: pd.DataFrame, scan_set: ScanSet
) -> None:
    subjects = scans["subject"].unique()
    rows = scan_set.rows.drop_duplicates("subject")
    rows = rows[rows["subject"].isin(subjects)]
    networks, volumes = scan_set.pipeline.networks, scan_set.volumes(rows)
    latents, codes = networks.compress(volumes), networks.describe(volumes)
    for kind, code in (("reconstruction", codes), ("lddim", None)):
        noise = networks.to_noise(latents, code, steps=3, solver="exact")[0].double().flatten().numpy()
        found = row(table, kind=kind, solver="exact", encode_steps=3)
        assert found["noise_mean"] == pytest.approx(noise.mean(), abs=1e-3)
        assert found["noise_std"] == pytest.approx(noise.std(), rel=1e-3)
        kurtosis = ((noise - noise.mean()) ** 4).mean() / noise.var() ** 2
        assert found["noise_kurtosis"] == pytest.approx(kurtosis, rel=1e-2)
        assert found["noise_std_low"] <= found["noise_std"] <= found["noise_std_high"]
    assert np.isnan(row(table, kind="semantic_only", solver="exact", decode_steps=3)["noise_std"])


def test_means_are_over_scans_and_notes_say_what_is_left_out(
    folder: Path, table: pd.DataFrame, scans: pd.DataFrame
) -> None:
    chosen = scans[(scans["kind"] == "lddim") & (scans["solver"] == "dpm++2m") & (scans["encode_steps"] == 3)]
    chosen = chosen[(chosen["against"] == "input") & (chosen["region"] == "brain")]
    found = row(
        table, kind="lddim", solver="dpm++2m", encode_steps=3, decode_steps=3, against="input", region="brain"
    )
    assert found["ssim"] == pytest.approx(chosen["ssim"].mean())
    assert found["ssim_low"] <= found["ssim"] <= found["ssim_high"]
    result = read_json(folder / "result.json")
    assert "ms_ssim" not in table.columns
    assert any("MS-SSIM is left out" in note for note in result["notes"])
    assert any(f"{LIMIT} of {LIMIT} scans have one" in note for note in result["notes"])
    short = [(line["solver"], line["steps"]) for line in result["values"]["solvers"]]
    assert short == [("exact", 2), ("exact", 3), ("dpm++2m", 2), ("dpm++2m", 3)]


def test_each_way_up_is_taken_once_and_done_walks_are_kept(
    material: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[tuple[str, int]] = []
    up = Networks.to_noise

    def counted(networks, latents, semantic, **options):
        taken.append((options["solver"], options["steps"]))
        return up(networks, latents, semantic, **options)

    monkeypatch.setattr(Networks, "to_noise", counted)
    out = tmp_path / "solvers"
    sweep(material, out, solvers=["ddim"], steps=[2], decode_steps=[2, 3])
    # one warm-up, one way up with the code for both ways down, one without
    assert taken == [("ddim", 1), ("ddim", 2), ("ddim", 2)]
    taken.clear()
    sweep(material, out, solvers=["ddim", "ddim-next"], steps=[2], decode_steps=[2, 3])
    assert {solver for solver, steps in taken if steps > 1} == {"ddim-next"}
    table = pd.read_csv(out / "table.csv")
    assert set(table["solver"].dropna()) == {"ddim", "ddim-next"}


def test_reference_compatible_clips_and_changes_the_window(
    material: Material, tmp_path: Path, scan_set: ScanSet
) -> None:
    out = sweep(material, tmp_path, solvers=None, steps=[2], decode_steps=None, reference_compatible=True)
    result = read_json(out / "result.json")
    assert result["settings"]["solvers"] == ["ddim"]
    assert result["settings"]["ssim_window"] == 3
    assert any("Published metric settings: x0 clipped" in note for note in result["notes"])
    scans = pd.read_csv(out / "scans.csv")
    first = scans[(scans["kind"] == "reconstruction") & (scans["region"] == "whole")].iloc[0]
    rows = scan_set.rows[scan_set.rows["subject"] == first["subject"]][:1]
    networks, volume = scan_set.pipeline.networks, scan_set.volumes(rows)
    latent, code = networks.compress(volume), networks.describe(volume)
    noise, _ = networks.to_noise(latent, code, steps=2, solver="ddim", clip_sample=True)
    assert first["noise_moment_2"] == pytest.approx(float(noise.double().square().mean()), rel=1e-3)
    image = networks.expand(networks.from_noise(noise, code, steps=2, solver="ddim", clip_sample=True))
    assert first["ssim"] == pytest.approx(float(ssim(image, volume, window=3)), abs=1e-4)


def test_what_cannot_be_swept_is_said(material: Material, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"exact must take as many steps down as up, got \[2\] up"):
        sweep(material, tmp_path, solvers=["exact"], steps=[2], decode_steps=[3])
    with pytest.raises(InputError, match="published sampler must be ddim, got exact"):
        sweep(material, tmp_path, solvers=["exact"], reference_compatible=True)
    with pytest.raises(InputError, match="limit must be at least 2"):
        sweep(material, tmp_path, limit=1)
    with pytest.raises(InputError, match="steps must be between 1 and 999, got 1000"):
        sweep(material, tmp_path, solvers=["ddim"], steps=[1000], decode_steps=None)
    assert not list(tmp_path.iterdir())


def test_exact_takes_equal_counts_and_the_others_all_pairs() -> None:
    walks = plan_walks(["exact", "ddim"], up=[5, 10], down=[10, 20])
    both = [(walk.solver, walk.up, walk.down) for walk in walks if walk.kind == "reconstruction"]
    assert both == [("exact", 10, 10), *(("ddim", a, b) for a in (5, 10) for b in (10, 20))]
    assert [walk.calls for walk in walks if walk.kind == "lddim"] == [20, 20]


def test_several_values_are_a_sweep_on_the_command_line(
    judged_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "evaluate",
        "reconstruction",
        "--run-dir",
        str(judged_run),
        "--device",
        "cpu",
        "--limit",
        str(LIMIT),
    ]
    assert main([*words, "--solver", "ddim", "exact", "--steps", "2"]) == 0
    assert "LPIPS" in capsys.readouterr().out
    table = pd.read_csv(judged_run / "evaluation" / "solvers" / "table.csv")
    assert set(table["solver"].dropna()) == {"ddim", "exact"}
    assert main([*words, "--reference-compatible", "--steps", "2"]) == 0
    assert "x0 clipped" in capsys.readouterr().out
    settings = read_json(judged_run / "evaluation" / "solvers_reference" / "result.json")["settings"]
    assert settings["clip_sample"] is True


@pytest.mark.parametrize(("threads", "sizes"), [(1, [6]), (2, [3, 3]), (4, [2, 2, 2])])
def test_every_worker_has_a_batch(
    scan_set: ScanSet, threads: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = JudgedScans(scan_set, scan_set.rows[:6], *[None] * 5)  # type: ignore[arg-type]
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    assert [len(batch) for batch in judged.batches] == sizes
    assert [place for batch in judged.batches for place in batch] == list(range(6))


def test_a_missing_sweep_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"Run first: ldae evaluate reconstruction --sweep$"):
        read_result(tmp_path / "solvers")
    with pytest.raises(FileNotFoundError, match=r"Run first: ldae evaluate reconstruction --reference-com"):
        read_result(tmp_path / "solvers_reference")
