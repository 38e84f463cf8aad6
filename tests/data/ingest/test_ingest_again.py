# SPDX-License-Identifier: Apache-2.0
"""Commands on folders that hold something already: nothing of it is lost, and nothing changes silently."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pandas as pd
import pytest
from balls import save_ball

from ldae.cli.main import main
from ldae.data.ingest import ingest
from ldae.data.ingest.manifest import Work
from ldae.data.ingest.review import keep_reviews
from ldae.errors import InputError

COLUMNS = ["item", "content", "decision", "comment", "reviewer"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for number in range(4):
        save_ball(tmp_path / "in" / f"p{number}" / "t1.nii.gz", seed=number)
    return tmp_path / "in"


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def review(path: Path, rows: list[list[str]]) -> Path:
    pd.DataFrame(rows, columns=COLUMNS).to_csv(path, index=False)
    return path


def test_a_folder_of_others_is_refused_and_left_as_it_is(source: Path, tmp_path: Path) -> None:
    bids = tmp_path / "bids"
    save_ball(bids / "sub-01" / "ses-1" / "anat" / "sub-01_ses-1_T1w.nii.gz", seed=9)
    (bids / "participants.tsv").write_text("participant_id\tage\nsub-01\t70\n")
    before = contents(bids)
    with pytest.raises(
        InputError, match=r"must be empty or one that the same command wrote before, got .*bids"
    ):
        ingest(source, bids, min_slices=20)
    assert contents(bids) == before
    assert not (tmp_path / "bids.key.json").exists()


def test_a_source_within_the_cohort_is_refused(source: Path) -> None:
    with pytest.raises(InputError, match="source must not lie in the cohort's folder"):
        ingest(source, source.parent, min_slices=20)


@pytest.mark.parametrize(
    ("changed", "what"), [({"contrast": "T2w"}, "contrast"), ({"keep_labels": True}, "choice of labels")]
)
def test_a_cohort_of_another_kind_is_not_replaced(source: Path, tmp_path: Path, changed, what: str) -> None:
    ingest(source, tmp_path / "out", min_slices=20)
    before = contents(tmp_path / "out")
    with pytest.raises(InputError, match=f"was written with another {what}, and going on would replace"):
        ingest(source, tmp_path / "out", min_slices=20, **changed)
    assert contents(tmp_path / "out") == before


def test_without_its_key_a_cohort_is_not_made_anew(source: Path, tmp_path: Path) -> None:
    ingest(source, tmp_path / "out", min_slices=20)
    before = contents(tmp_path / "out")
    key = tmp_path / "out.key.json"
    key.rename(tmp_path / "safe.json")
    with pytest.raises(InputError, match="written with another key"):
        ingest(source, tmp_path / "out", min_slices=20)
    assert not key.exists()
    assert contents(tmp_path / "out") == before
    assert ingest(source, tmp_path / "out", min_slices=20, key=tmp_path / "safe.json").accepted == 4
    assert contents(tmp_path / "out") == before


def test_preprocess_does_not_write_into_a_cohort(source: Path, tmp_path: Path) -> None:
    ingest(source, tmp_path / "out", min_slices=20)
    with pytest.raises(InputError, match="written with another verb"):
        Work(tmp_path / "out").check({"verb": "preprocess"})


def test_of_who_has_left_nothing_stays(source: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    ingest(source, out, min_slices=20)
    assert len(list((out / ".ingest" / "volumes").iterdir())) == 4
    (source / "p3").rename(tmp_path / "left")
    words = ["ingest", str(source), "--out", str(out), "--min-slices", "20"]
    assert main(words) == 0
    assert "1 of the last run are no longer in the source, and were taken out" in capsys.readouterr().out
    for step in ("volumes", "mosaics", "extract", "analyse", "process"):
        assert len(list((out / ".ingest" / step).iterdir())) == 3
    assert len(list(out.glob("sub-*"))) == 3


def test_decisions_add_up_and_the_same_reviewer_may_change_one(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ingest(source, out, min_slices=20)
    scans = pd.read_csv(out / "manifest.csv")
    places = [[row.item, row.content[:16]] for row in scans.itertuples()]
    first = review(tmp_path / "1.csv", [[*places[0], "reject", "moved, much", "A"]])
    second = review(tmp_path / "2.csv", [[*places[1], "reject", "", "B"], [*places[0], "accept", "", "B"]])
    empty = review(tmp_path / "3.csv", [])
    back = review(tmp_path / "4.csv", [[*places[0], "accept", "", "A"], [*places[2], "", "", "A"]])
    accepted = [
        ingest(source, out, min_slices=20, reviews=[path]).accepted for path in (first, second, empty, back)
    ]
    assert accepted == [3, 2, 2, 3]
    assert ingest(source, out, min_slices=20).accepted == 3
    kept = keep_reviews(Work(out).reviews, [])
    assert [(one.name, sorted(one.decisions.values())) for one in kept] == [
        ("A", ["accept"]),
        ("B", ["accept", "reject"]),
        ("", []),
    ]


def test_another_run_of_the_visit_follows_one_that_was_rejected(tmp_path: Path) -> None:
    for run in (1, 2):
        save_ball(tmp_path / "in" / "sub-1" / "anat" / f"sub-1_run-{run}_T1w.nii.gz", seed=run)
    out = tmp_path / "out"
    ingest(tmp_path / "in", out, min_slices=20)
    scans = pd.read_csv(out / "manifest.csv").set_index("item")
    (taken,) = scans.index[scans["reason"].isna()]
    row = [taken, scans.loc[taken, "content"][:16], "reject", "", "A"]
    summary = ingest(tmp_path / "in", out, min_slices=20, reviews=[review(tmp_path / "r.csv", [row])])
    assert (summary.accepted, summary.rejected) == (1, {"rejected by a reviewer": 1})
    page = (out / "review.html").read_text()
    assert page.count("<article") == 2
    assert page.count("Left out by an earlier review") == 1
    back = review(tmp_path / "b.csv", [[*row[:2], "accept", "", "A"]])
    ingest(tmp_path / "in", out, min_slices=20, reviews=[back])
    again = pd.read_csv(out / "manifest.csv").set_index("item")
    assert list(again.index[again["reason"].isna()]) == [taken]


def test_two_files_without_names_are_two_people(tmp_path: Path) -> None:
    paths = [
        review(tmp_path / f"{n}.csv", [["i", "c", word, "", ""]])
        for n, word in enumerate(("accept", "reject"))
    ]
    assert [list(one.decisions.values()) for one in keep_reviews(tmp_path / "kept", paths)] == [
        ["accept"],
        ["reject"],
    ]
    assert len(keep_reviews(tmp_path / "kept", paths[:1])) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("i,c,reject,,A\ni,c,accept,,A\n", "decide once on a scan, got both words for i"),
        ("i,c,reject,motion, severe,A\n", r"row 2 must have 5 cells as the header has, got 6\. Put cells"),
    ],
)
def test_a_review_that_is_not_clear_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "review.csv"
    path.write_text(",".join(COLUMNS) + "\n" + text)
    with pytest.raises(InputError, match=message):
        keep_reviews(tmp_path / "kept", [path])
    assert not (tmp_path / "kept").exists()


def test_the_folder_here_is_a_folder_too(source: Path, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert ingest(source, ".", min_slices=20).accepted == 4
    assert (tmp_path / "here.key.json").is_file()


def test_a_run_that_finds_nothing_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").touch()
    with pytest.raises(InputError, match="must hold DICOM or NIfTI files"):
        ingest(tmp_path / "in", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
