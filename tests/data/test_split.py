# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldae.data.split import (
    FRACTIONS,
    SPLITS,
    check_split,
    freeze_split,
    natural_key,
    split_hash,
    split_subjects,
)
from ldae.errors import InputError


def cohort(diagnoses: list[str | None], visits: int = 1) -> pd.DataFrame:
    """One subject a diagnosis, with that many visits."""
    return pd.DataFrame(
        {
            "subject": [f"s{number:04d}" for number in range(len(diagnoses)) for _ in range(visits)],
            "session": [f"m{12 * visit}" for _ in diagnoses for visit in range(visits)],
            "diagnosis": pd.Series([word for word in diagnoses for _ in range(visits)], dtype="str"),
        }
    )


def test_natural_order_of_sessions() -> None:
    assert sorted(["ses-10", "ses-2", "ses-1"], key=natural_key) == ["ses-1", "ses-2", "ses-10"]


def test_exact_shares_within_each_diagnosis() -> None:
    frame = cohort(["CN"] * 400 + ["MCI"] * 400 + ["AD"] * 400)
    frame["split"] = split_subjects(frame)
    counts = pd.crosstab(frame["diagnosis"], frame["split"])[list(SPLITS)]
    np.testing.assert_array_equal(counts.to_numpy(), [[240, 60, 40, 60]] * 3)


@settings(max_examples=20, deadline=None)
@given(
    diagnoses=st.lists(st.sampled_from(["CN", "MCI", "AD", None]), min_size=4, max_size=120),
    seed=st.integers(0, 3),
    visits=st.integers(1, 3),
)
def test_no_leak_near_shares_and_stable(diagnoses: list[str | None], seed: int, visits: int) -> None:
    frame = cohort(diagnoses, visits)
    frame["split"] = split_subjects(frame, seed=seed)
    check_split(frame)
    subjects = frame.drop_duplicates("subject")
    sizes = subjects["split"].value_counts()
    assert set(sizes.index) == set(SPLITS)
    if len(subjects) >= 20:
        for word, share in zip(SPLITS, FRACTIONS, strict=True):
            assert abs(sizes[word] - share * len(subjects)) < 1
            for _, stratum in subjects.groupby(subjects["diagnosis"].fillna("")):
                assert abs((stratum["split"] == word).sum() - share * len(stratum)) < 1.5
    shuffled = frame.sample(frac=1, random_state=seed)
    pd.testing.assert_series_equal(split_subjects(shuffled, seed=seed).sort_index(), frame["split"])
    assert split_hash(shuffled) == split_hash(frame)


def test_the_first_session_decides_the_stratum() -> None:
    """Two subjects who convert later are stratified as they began."""
    frame = cohort(["CN"] * 8, visits=2)
    converted = frame.copy()
    converted.loc[converted["session"] == "m12", "diagnosis"] = "AD"
    pd.testing.assert_series_equal(split_subjects(frame), split_subjects(converted))


def test_seed_changes_the_split() -> None:
    frame = cohort(["CN"] * 100)
    assert (split_subjects(frame, seed=0) != split_subjects(frame, seed=1)).any()


def test_known_subjects_keep_their_split_and_the_others_fill_up() -> None:
    frame = cohort(["CN"] * 12 + ["AD"] * 12)
    known = {f"s{number:04d}": "test" for number in range(6)}
    words = dict(zip(frame["subject"], split_subjects(frame, known=known), strict=True))
    assert {word for subject, word in words.items() if subject in known} == {"test"}
    # CN's share of test is more than full: none of its others is in it, and each has a split
    assert {words[f"s{number:04d}"] for number in range(6, 12)} <= set(SPLITS) - {"test"}
    assert set(words.values()) == set(SPLITS)
    with pytest.raises(InputError, match=r"known must hold the words train, val, cal, test, got 'foo'\."):
        split_subjects(frame, known={"s0000": "foo"})


def test_too_few_subjects_or_wrong_fractions() -> None:
    with pytest.raises(InputError, match=r"at least 4 subjects.*got 3"):
        split_subjects(cohort(["CN", "AD", "MCI"], visits=3))
    for fractions in [(0.5, 0.5), (0.7, 0.2, 0.2, 0.1), (0.9, 0.1, 0.0, 0.0)]:
        with pytest.raises(InputError, match="fractions must be 4 positive shares"):
            split_subjects(cohort(["CN"] * 10), fractions=fractions)


def test_check_split_names_what_is_wrong() -> None:
    frame = cohort(["CN"] * 4, visits=2)
    frame.attrs["path"] = "study.csv"
    with pytest.raises(InputError, match=r"Run: ldae split --cohort study\.csv"):
        check_split(frame)
    frame["split"] = ["train", "test", *["val"] * 6]
    with pytest.raises(InputError, match=r"got 1 in two in study\.csv: s0000 \(test and train\)"):
        split_hash(frame)
    frame["split"] = ["train", "train", *["valid"] * 6]
    with pytest.raises(InputError, match=r"one of train, val, cal, test, got 'valid'"):
        check_split(frame)


def test_hash_depends_on_who_is_where_only() -> None:
    frame = cohort(["CN"] * 8, visits=2)
    frame["split"] = split_subjects(frame)
    assert split_hash(frame) == split_hash(frame.drop_duplicates("subject").assign(age=3.0))
    other = frame.assign(split=frame["split"].replace({"val": "test", "test": "val"}))
    assert split_hash(other) != split_hash(frame)


CSV = (
    "subject,session,path,diagnosis,age,weight,note\r\n"
    + "".join(f's{number},1,s{number}.nii.gz,CN,7{number}.10,1e-3,"a, ""b"""\r\n' for number in range(8))
)  # fmt: skip


def test_freeze_adds_a_column_and_touches_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "cohort.csv"
    path.write_bytes(CSV.encode())
    frame = freeze_split(path, seed=3)
    before, after = CSV.split("\r\n"), path.read_bytes().decode().split("\r\n")
    assert after[0] == before[0] + ",split"
    assert after[1:-1] == [f"{line},{word}" for line, word in zip(before[1:-1], frame["split"], strict=True)]
    check_split(frame)


def test_freeze_refuses_a_second_draw_unless_told(tmp_path: Path) -> None:
    path = tmp_path / "cohort.csv"
    path.write_text(CSV)
    first = freeze_split(path)
    frozen = path.read_bytes()
    with pytest.raises(InputError, match=r"drawn once, got a split column in .*cohort\.csv already"):
        freeze_split(path, seed=1)
    assert path.read_bytes() == frozen
    second = freeze_split(path, seed=1, overwrite=True)
    assert split_hash(first) != split_hash(second)
    assert path.read_text().splitlines()[0].count("split") == 1
    assert [line.rsplit(",", 1)[1] for line in path.read_text().splitlines()[1:]] == list(second["split"])


def test_freeze_replaces_a_leaking_column_where_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "cohort.csv"
    rows = [
        f"s{number // 2},{number % 2},s{number}.nii,{word},AD,70" for number, word in enumerate(SPLITS * 3)
    ]
    path.write_text("\n".join(["subject,session,path,split,diagnosis,age", *rows]) + "\n")
    frame = freeze_split(path, overwrite=True)
    check_split(frame)
    assert path.read_text().splitlines()[0] == "subject,session,path,split,diagnosis,age"


def test_freeze_writes_into_participants(tmp_path: Path) -> None:
    rows = []
    for number in range(5):
        rows.append(f"sub-{number}\tCN\t7{number}")
        if number < 4:
            scan = tmp_path / f"sub-{number}" / "anat" / f"sub-{number}_T1w.nii.gz"
            scan.parent.mkdir(parents=True)
            scan.touch()
    table = tmp_path / "participants.tsv"
    table.write_text("\n".join(["participant_id\tgroup\tage", *rows]) + "\n")
    frame = freeze_split(tmp_path)
    lines = [line.split("\t") for line in table.read_text().splitlines()]
    assert lines[0] == ["participant_id", "group", "age", "split"]
    assert [line[3] for line in lines[1:]] == [*frame["split"], "n/a"]


def test_hash_is_that_of_the_sorted_lines() -> None:
    """Trained components name it: it must never change, for ASCII or any other text."""
    frame = pd.DataFrame({"subject": ["é2", "b", "Z", "b", "\U0001f9e0", "\ufffd"], "split": "train"})
    frame.loc[2, "split"] = "test"
    lines = "Z\ttest\nb\ttrain\né2\ttrain\n\ufffd\ttrain\n\U0001f9e0\ttrain"
    assert split_hash(frame) == hashlib.sha256(lines.encode()).hexdigest()


def test_hash_and_leaks_of_columns_of_any_type() -> None:
    plain = pd.DataFrame({"subject": ["a", "b", "b", "c"], "split": ["train", "test", "test", "val"]})
    odd = plain.astype("category").rename_axis("split")
    assert split_hash(odd) == split_hash(plain)
    numbers = plain.assign(subject=[1, "1", "1", 2])
    numbers.loc[0, "split"] = "test"
    assert split_hash(numbers) == split_hash(numbers.assign(subject=["1", "1", "1", "2"]))
    leaking = odd.assign(split=pd.Categorical(["train", "train", "test", "val"]))
    with pytest.raises(InputError, match=r"got 1 in two in COHORT.csv: b \(test and train\)\."):
        check_split(leaking)
