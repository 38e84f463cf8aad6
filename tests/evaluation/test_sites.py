# SPDX-License-Identifier: Apache-2.0
"""Heads at a site that they have not seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score, log_loss

from ldae.cli.main import main
from ldae.data.split import split_subjects
from ldae.errors import InputError
from ldae.evaluation.head_choice import HAC_RATE
from ldae.evaluation.record import read_result
from ldae.evaluation.site_folds import ALL, ARMS, AS_FEW, WITHOUT, Fold, judged_sites, known_sites, make_folds
from ldae.evaluation.site_heads import Contest, count_parameters
from ldae.evaluation.sites import evaluate_sites
from ldae.heads import EvidentialClassifier, LinearProbe
from ldae.heads.matched import matched_hidden
from ldae.pipeline.embeddings import write_embeddings
from ldae.report.commands import evaluation_words
from ldae.report.evaluation_tables import sites_table
from ldae.report.run import Run

SIZE = 3
CODES = [f"y_{i:03d}" for i in range(SIZE)]
SPREAD = 0.3
WORDS = ["sites", "--heads", "linear", "neighbours", "--quick"]


def shifted_cohort(subjects: int) -> pd.DataFrame:
    """CN at -1 and AD at 1 of the first number, which scanner 1 moves by -1 and scanner 2 by 1.

    Every tenth subject has a second scan at the other site.
    """
    random = np.random.default_rng(0)
    places = np.arange(subjects)
    severe, site = places % 2, places // 2 % 2
    frame = pd.DataFrame(
        {
            "subject": [f"s{number:03d}" for number in range(subjects)],
            "session": "1",
            "path": "scan.nii.gz",
            "diagnosis": np.array(["CN", "AD"])[severe],
            "age": 70 + random.normal(size=subjects),
            "site": site + 1,
        }
    )
    frame["split"] = split_subjects(frame)
    again = frame.iloc[::10].assign(session="2", site=lambda rows: 3 - rows["site"])
    frame = pd.concat([frame, again], ignore_index=True)
    codes = random.normal(size=(len(frame), SIZE))
    codes[:, 0] = SPREAD * codes[:, 0] + np.where(frame["diagnosis"] == "AD", 1, -1) + 2 * frame["site"] - 3
    return pd.concat([frame, pd.DataFrame(codes.astype(np.float32), columns=CODES)], axis=1)


def write_run(run_dir: Path, frame: pd.DataFrame) -> Path:
    """A run with these embeddings."""
    frame.attrs = {"pipeline": "p" * 64, "code_std": frame[CODES].std(ddof=0).tolist()}
    write_embeddings(frame, run_dir / "embeddings.parquet")
    (run_dir / "pipeline").mkdir(exist_ok=True)
    (run_dir / "cohort").mkdir(exist_ok=True)
    (run_dir / "cohort" / "cohort.csv").touch()
    return run_dir


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return shifted_cohort(320)


@pytest.fixture(scope="module")
def folder(frame: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the command has written what it found."""
    run_dir = write_run(tmp_path_factory.mktemp("sites"), frame)
    assert main(["evaluate", *WORDS, "--run-dir", str(run_dir)]) == 0
    return run_dir / "evaluation" / "sites"


def folds_of(frame: pd.DataFrame) -> dict[tuple[str, str], Fold]:
    """The fits by kind and, but for the first, by site."""
    rows = known_sites(frame, by="site")
    sites, _ = judged_sites(rows, by="site", target="diagnosis")
    found = {}
    for fold in make_folds(rows, by="site", sites=sites, target="diagnosis", seed=0):
        own = "all" if fold.arm == ALL else fold.test["site"].iloc[0]
        found[fold.arm, own] = fold
    return found


def accuracy_by_site(said: pd.DataFrame) -> list[float]:
    """Balanced accuracy at each site."""
    called = np.where(said["p_AD"] > 0.5, "AD", "CN")
    parts = (said["site"] == site for site in sorted(set(said["site"])))
    return [balanced_accuracy_score(said["y_true"][own], called[own]) for own in parts]


def test_context_helps_where_the_site_is_known() -> None:
    """On some 200 test scans, so that one of them alone does not decide."""
    contest, folds = Contest("diagnosis", "site", ("site",), seed=0), folds_of(shifted_cohort(1200))
    # AD of site 1 and CN of site 2 have the same codes: no head of the code alone tells them apart.
    blind = contest.said("linear", folds[ALL, "all"])
    assert np.mean(accuracy_by_site(blind)) == pytest.approx(0.75, abs=0.05)
    assert min(accuracy_by_site(contest.said("hac-context", folds[ALL, "all"]))) > 0.97


def test_a_site_left_out_is_unknown_to_the_head_and_other_context_is_not() -> None:
    fold = folds_of(shifted_cohort(150))[WITHOUT, "2"]
    said = Contest("diagnosis", "site", ("site", "age"), seed=0).said("hac-context", fold)
    head = EvidentialClassifier(modulation=True, context=2, learning_rate=HAC_RATE, positive_label="AD")
    train, test = fold.train, fold.test
    head.fit(
        np.column_stack([train[CODES], np.ones(len(train)), train["age"]]),
        train["diagnosis"].to_numpy(),
        groups=train["subject"].to_numpy(),
    )
    chances = head.predict_proba(np.column_stack([test[CODES], np.full(len(test), np.nan), test["age"]]))
    np.testing.assert_allclose(said[["p_AD", "p_CN"]], chances, rtol=0, atol=1e-12)
    assert said["y_true"].tolist() == test["diagnosis"].tolist()
    assert set(said["fitted_scans"]) == {len(train)}
    # Fitted on site 1 alone, the boundary lies beyond all codes of site 2: the context is of no help.
    assert accuracy_by_site(said) == [pytest.approx(0.5, abs=0.03)]


def test_no_subject_is_fitted_on_and_judged(frame: pd.DataFrame) -> None:
    assert (frame.groupby("subject")["site"].nunique() == 2).sum() == 32
    folds = folds_of(frame)
    assert [arm for arm, _ in folds] == [ALL, WITHOUT, AS_FEW, WITHOUT, AS_FEW]
    for (arm, site), fold in folds.items():
        assert set(fold.train["split"]) == {"train"}
        assert set(fold.test["split"]) == {"test"}
        assert not set(fold.train["subject"]) & set(fold.test["subject"])
        assert set(fold.train["site"]) == ({"1", "2"} - {site} if arm == WITHOUT else {"1", "2"})
        assert set(fold.test["site"]) == ({"1", "2"} if arm == ALL else {site})
        if arm == AS_FEW:
            counts = [
                part.drop_duplicates("subject")["diagnosis"].value_counts().to_dict()
                for part in (fold.train, folds[WITHOUT, site].train)
            ]
            assert counts[0] == counts[1]


def test_figures_are_those_of_probes_fitted_by_hand(folder: Path, frame: pd.DataFrame) -> None:
    table, scans = pd.read_csv(folder / "table.csv"), pd.read_csv(folder / "scans.csv")
    rows = table.set_index(["head", "fitted", "site"])
    for site in (1, 2):
        train = frame[(frame["split"] == "train") & (frame["site"] != site)]
        test = frame[(frame["split"] == "test") & (frame["site"] == site)]
        probe = LinearProbe(positive_label="AD").fit(
            train[CODES].to_numpy(dtype=float), train["diagnosis"], groups=train["subject"]
        )
        chances = probe.predict_proba(test[CODES].to_numpy(dtype=float))
        row = rows.loc[("linear", WITHOUT, str(site))]
        assert row["nll"] == pytest.approx(log_loss(test["diagnosis"], chances))
        assert row["balanced_accuracy"] == pytest.approx(0.5, abs=0.03)
        assert (row["scans"], row["fitted_scans"]) == (len(test), len(train))
    assert rows.loc[("linear", ALL, "pooled"), "balanced_accuracy"] == pytest.approx(0.75, abs=0.06)
    pooled = {
        arm: log_loss(part["y_true"], part[["p_AD", "p_CN"]])
        for (head, arm), part in scans.groupby(["head", "fitted"])
        if head == "linear"
    }
    assert len(scans) == 2 * len(ARMS) * (frame["split"] == "test").sum()
    found = read_result(folder)
    lost = found["values"]["nll_lost_linear_against_with_all_sites"]
    assert lost == pytest.approx(pooled[WITHOUT] - pooled[ALL])
    low, high = found["values"]["nll_lost_linear_against_with_all_sites_ci"]
    assert 0 < low < lost < high
    assert found["notes"][0].startswith(
        f"linear: NLL {pooled[WITHOUT]:.3f} {WITHOUT}, {pooled[ALL]:.3f} {ALL}, "
    )


def test_heads_are_compared_on_the_same_scans(folder: Path) -> None:
    table = pd.read_csv(folder / "table.csv").set_index(["head", "fitted", "site"])["nll"]
    rows = pd.read_csv(folder / "differences.csv")
    rows = rows[(rows["metric"] == "nll") & (rows["against_head"] != rows["head"])]
    assert rows["fitted"].tolist() == list(ARMS)
    for row in rows.itertuples():
        ours, theirs = (table[head, row.fitted, "pooled"] for head in ("neighbours", "linear"))
        assert row.value == pytest.approx(ours - theirs)
        assert row.low < row.value < row.high


def test_a_second_time_does_nothing(folder: Path) -> None:
    run_dir, written = folder.parents[1], (folder / "result.json").stat().st_mtime_ns
    assert main(["evaluate", *WORDS, "--run-dir", str(run_dir)]) == 0
    assert (folder / "result.json").stat().st_mtime_ns == written
    assert evaluation_words(folder) == f"evaluate {' '.join(WORDS)}"


def test_the_page_shows_them(folder: Path) -> None:
    # nothing of the run is read but the evaluation
    run = Run(folder.parents[1], scans=None, jobs={}, viewer=None)  # type: ignore[arg-type]
    table = sites_table(run)
    assert list(table.groups) == [f"fitted {arm}" for arm in ARMS]
    frame = pd.read_csv(folder / "table.csv").set_index(["head", "fitted", "site"])
    head, accuracy, *_ = table.groups[f"fitted {WITHOUT}"][0]
    wanted = frame.loc[("linear", WITHOUT, "pooled"), "balanced_accuracy"]
    assert (head, accuracy.split(" ")[0]) == ("linear", f"{wanted:.3f}")


def test_sites_that_cannot_be_judged_are_named(frame: pd.DataFrame, tmp_path: Path) -> None:
    few = frame.copy()
    test = few["split"] == "test"
    few["site"] = few["site"].map({1: "A", 2: "B"})
    few.loc[few.index[test & (few["diagnosis"] == "AD")][:3], "site"] = "C"
    few.loc[few.index[test & (few["diagnosis"] == "CN")][:2], "site"] = None
    found = read_result(evaluated(write_run(tmp_path, few), compared=["neighbours"]))
    assert found["notes"][:2] == [
        "site C is not judged: its test scans are of 3 subjects with AD, 5 of each class are needed.",
        "2 scans without a known site are left out.",
    ]
    assert found["sites"] == 2
    assert found["scans"] == test.sum() - 5


def evaluated(run_dir: Path, **options: Any) -> Path:
    """The folder of an evaluation of a run."""
    cohort = run_dir / "cohort" / "cohort.csv"
    return evaluate_sites(run_dir / "pipeline", cohort, out=run_dir / "evaluation" / "sites", **options)


def test_the_command_ends_with_2_and_a_sentence(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = folder.parents[1]
    assert main(["evaluate", *WORDS, "--run-dir", str(run_dir), "--by", "scanner"]) == 2
    assert "by must be a column of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"by": "scanner"}, r"by must be a column of .*embeddings.parquet, got 'scanner'. Name one"),
        ({"by": "path"}, "by must tell at least two sites apart, got 'path' with 1 in splits train and test"),
        (
            {"by": "subject"},
            r"can be left out, got none of \d+ in 'subject'. subject s\d+ is not .* needed. \.\.\.$",
        ),
        ({"target": "age"}, "target must be a column of classes, got numbers in 'age'"),
        ({"target": "diagnosis", "by": "diagnosis"}, "target must be another column than by and context"),
        ({"context": ["diagnosis"]}, "target must be another column than by and context, got 'diagnosis'"),
        ({"context": ["scanner"], "compared": ["hac-context"]}, "context must be columns of the embeddings"),
        ({"compared": ["linear", "tree"]}, "heads must be of linear, evidential, .*, got 'tree'"),
    ],
)
def test_bad_input_is_named(
    frame: pd.DataFrame, tmp_path: Path, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        evaluated(write_run(tmp_path, frame), **options)
    assert not (tmp_path / "evaluation" / "sites" / "result.json").exists()


def test_the_matched_network_has_as_many_parameters_as_hac() -> None:
    counts = count_parameters(256, classes=2, context=4)
    layers = [(256, 64), (64, 64), (64, 512), (64, 256), (256, 2)]
    assert counts["hac"] == sum(a * b + b for a, b in layers)
    assert counts["hac-context"] == counts["hac"] + 4 * 64 + 4
    width, _ = matched_hidden(256, classes=2)
    # two hidden layers, and a linear path beside them
    own = [
        sum(a * b + b for a, b in ((256, w), (w, w), (w, 2), (256, 2))) for w in range(width - 1, width + 2)
    ]
    assert counts["mlp-matched"] == own[1]
    assert min(own, key=lambda count: abs(count - counts["hac"])) == own[1]
    contest = Contest("diagnosis", "site", ("site",), seed=3)
    head = contest.made("mlp-matched", pd.Series(["AD", "CN"], name="diagnosis"), width=256, context=0)
    settings = head.get_params()
    assert (settings["hidden"], settings["learning_rate"]) == ((width, width), HAC_RATE)
    assert (settings["positive_label"], settings["random_state"]) == ("AD", 3)
