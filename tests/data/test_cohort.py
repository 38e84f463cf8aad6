# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from ldae.data.cohort import DIAGNOSES, SPLITS, CohortError, read_cohort, write_cohort
from ldae.data.table import CHUNK, plain_column, read_table, write_table
from ldae.errors import InputError

Blob = Callable[..., Path]
HEADER = "subject,session,path,diagnosis,age"


def write(folder: Path, *rows: str, header: str = HEADER) -> Path:
    path = folder / "cohort.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def faults(path: Path, **options: object) -> list[tuple[int | None, str | None, str]]:
    with pytest.raises(CohortError) as caught:
        read_cohort(path, **options)  # type: ignore[arg-type]
    for fault in caught.value.faults:
        assert str(fault) in str(caught.value)
    return [(fault.row, fault.column, fault.message) for fault in caught.value.faults]


def test_types_paths_gaps_and_further_columns(tmp_path: Path, blob: Blob) -> None:
    blob("scans/a.nii.gz")
    absolute = blob("b.nii")
    blob("c.nii")
    path = write(
        tmp_path,
        "007,1,scans/a.nii.gz,CN,71.5,0012,3.5,none",
        f"007,2,{absolute},n/a,,0013,n/a,",
        "8, 1 ,c.nii,,N/A,0014,4,x",
        header=HEADER + ",site,volume,drug",
    )
    frame = read_cohort(path, check="voxels")
    assert list(frame.columns) == [*HEADER.split(","), "site", "volume", "drug"]
    assert list(frame["subject"]) == ["007", "007", "8"]
    assert list(frame["session"]) == ["1", "2", "1"]
    assert list(frame["path"]) == [
        str(tmp_path / "scans" / "a.nii.gz"),
        str(absolute),
        str(tmp_path / "c.nii"),
    ]
    assert list(frame["diagnosis"].fillna("-")) == ["CN", "-", "-"]
    assert frame["age"].dtype == float
    assert frame["age"].isna().tolist() == [False, True, True]
    assert list(frame["site"]) == ["0012", "0013", "0014"]
    assert frame["volume"].tolist()[::2] == [3.5, 4]
    assert list(frame["drug"].fillna("-")) == ["none", "-", "x"]
    assert frame.attrs["path"] == str(path)


def test_plain_columns() -> None:
    assert plain_column(pd.Series(["1", "2"], dtype="str")).dtype == int
    assert plain_column(pd.Series(["1e3", "-.5", ""], dtype="str")).tolist()[:2] == [1000, -0.5]
    assert plain_column(pd.Series(["1", "02"], dtype="str")).tolist() == ["1", "02"]
    assert plain_column(pd.Series(["", "n/a"], dtype="str")).isna().all()


def test_round_trip_with_relative_paths(tmp_path: Path, blob: Blob) -> None:
    inside, outside = blob("study/scans/a.nii"), blob("elsewhere/b.nii")
    path = write(tmp_path, f"s1,1,{inside},CN,71.25,m", f"s2,1,{outside},,,f", header=HEADER + ",sex")
    frame = read_cohort(path)
    write_cohort(frame, tmp_path / "study" / "cohort.csv")
    text = (tmp_path / "study" / "cohort.csv").read_text().splitlines()
    assert text == [HEADER + ",sex", "s1,1,scans/a.nii,CN,71.25,m", f"s2,1,{outside},,,f"]
    pd.testing.assert_frame_equal(read_cohort(tmp_path / "study" / "cohort.csv"), frame)


def test_every_fault_at_once_with_row_and_column(tmp_path: Path, blob: Blob) -> None:
    """One cohort with everything that can be wrong; the header is row 1, a quoted cell spans two lines."""
    for name in ("good", "twice", "visit1", "visit2", "old", "nodx", "empty"):
        blob(f"{name}.nii.gz")
    cut = blob("cut.nii.gz")
    cut.write_bytes(cut.read_bytes()[:-40])
    (tmp_path / "text.nii").write_text("not an image")
    save = lambda name, voxels: nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / name)  # noqa: E731
    save("four.nii.gz", np.ones((4, 4, 4, 2), dtype=np.float32))
    save("two.nii.gz", np.ones((4, 4), dtype=np.float32))
    save("nan.nii.gz", np.where(np.arange(64).reshape(4, 4, 4) == 9, np.nan, 1).astype(np.float32))
    save("inf.nii.gz", np.where(np.arange(64).reshape(4, 4, 4) == 9, np.inf, 1).astype(np.float32))
    save("flat.nii.gz", np.ones((4, 4, 4), dtype=np.float32))
    path = write(
        tmp_path,
        's1,1,good.nii.gz,CN,70,"two',
        'lines"',
        "s2,1,none.nii.gz,CN,70,",
        "s3,1,cut.nii.gz,CN,70,",
        "s4,1,text.nii,CN,70,",
        "s5,1,four.nii.gz,CN,70,",
        "s6,1,two.nii.gz,CN,70,",
        "s7,1,nan.nii.gz,CN,70,",
        "s8,1,inf.nii.gz,CN,70,",
        "s9,1,flat.nii.gz,CN,70,",
        "s10,1,twice.nii.gz,CN,70,",
        "s11,1,twice.nii.gz,CN,70,",
        "s12,1,visit1.nii.gz,CN,70,",
        "s12,1,visit2.nii.gz,CN,70,",
        "s13,1,nodx.nii.gz,Dementia,70,",
        "s14,1,old.nii.gz,AD,seventy,",
        ",1,empty.nii.gz,AD,-3,",
        "s15,1",
        header=HEADER + ",note",
    )
    found = faults(path, check="voxels")
    expected = [
        (4, "path", "does not exist"),
        (5, "path", "cut short"),
        (6, "path", "must be a readable NIfTI"),
        (7, "path", r"must have 3 dimensions, got 4"),
        (8, "path", r"must have 3 dimensions, got 2"),
        (9, "path", "got 1 NaN"),
        (10, "path", "got 1 NaN or infinite"),
        (11, "path", "got the value 1 everywhere"),
        (13, "path", "stands in row 12 already"),
        (15, "session", "'s12', '1' stands in row 14 already"),
        (16, "diagnosis", "must be one of CN, MCI, AD or empty, got 'Dementia'"),
        (17, "age", "must be a number of years or empty, got 'seventy'"),
        (18, "subject", "must not be empty"),
        (18, "age", "must be within 0..120 years, got -3"),
        (19, None, "must have 6 cells as the header has, got 2"),
    ]
    assert [fault[:2] for fault in found] == [item[:2] for item in expected]
    for fault, (_, _, words) in zip(found, expected, strict=True):
        assert words in fault[2]


def test_faults_of_voxels_need_reading_unless_trusted(tmp_path: Path, blob: Blob) -> None:
    flat = tmp_path / "flat.nii"
    nib.save(nib.Nifti1Image(np.ones((4, 4, 4), dtype=np.float32), np.eye(4)), flat)
    path = write(tmp_path, "s1,1,flat.nii,CN,70", "s2,1,gone.nii,CN,70")
    assert [row for row, _, _ in faults(path, check="voxels")] == [2, 3]
    assert [row for row, _, _ in faults(path, check="headers")] == [3]
    assert len(read_cohort(path, check="table")) == 2
    assert [row for row, _, _ in faults(path, check="voxels", trusted=lambda scan: scan == flat)] == [3]


def test_missing_columns(tmp_path: Path) -> None:
    found = faults(write(tmp_path, "s1,a.nii,CN", header="subject,path,dx"))
    assert [(row, column) for row, column, _ in found] == [(1, "session"), (1, "diagnosis"), (1, "age")]
    assert "the columns are subject, path, dx" in found[0][2]
    semicolons = faults(write(tmp_path, "s1;1;a.nii;CN;70", header=HEADER.replace(",", ";")))
    assert "separate columns by commas" in semicolons[0][2]


def test_other_words_for_the_diagnosis(tmp_path: Path) -> None:
    path = write(tmp_path, "s1,1,a.nii,patient,70", "s2,1,b.nii,CN,70")
    frame_faults = faults(path, check="table", diagnoses=("control", "patient"))
    assert frame_faults == [(3, "diagnosis", "must be one of control, patient or empty, got 'CN'")]


@pytest.mark.parametrize(
    ("age", "right"), [("nan", True), ("1e2", True), ("121", False), ("inf", False), ("7O", False)]
)
def test_ages(tmp_path: Path, age: str, right: bool) -> None:
    path = write(tmp_path, f"s1,1,a.nii,CN,{age}")
    if right:
        value = read_cohort(path, check="table")["age"][0]
        assert math.isnan(value) if age == "nan" else value == 100
    else:
        assert faults(path, check="table")[0][:2] == (2, "age")


def test_a_subject_in_two_splits_and_unknown_words(tmp_path: Path) -> None:
    rows = ["s1,1,a.nii,CN,70,train", "s1,2,b.nii,CN,71,test", "s2,1,c.nii,CN,70,", "s3,1,d.nii,CN,70,valid"]
    path = write(tmp_path, *rows, header=HEADER + ",split")
    found = faults(path, check="table")
    assert [fault[:2] for fault in found] == [(3, "split"), (4, "split"), (5, "split")]
    assert "one split only, got 's1' in train (row 2) and test" in found[0][2]
    assert "one of train, val, cal, test, got 'valid'" in found[2][2]
    assert len(read_cohort(path, check="table", ignore_split=True)) == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "got an empty file"),
        (b"\n\n", "got an empty file"),
        (b"PK\x03\x04\x00\x00\xff", "got binary data"),
        (b"\xff\xfes\x00u\x00", "got binary data"),
        (b"subject,,path\n", "Columns must have names"),
        (b"subject,subject\n", "Columns must have names, each its own"),
        (b'subject,session,path,diagnosis,age\n"open,1\n', "must be a CSV file, got .*: line"),
        (b"subject,session,path,diagnosis,age\n", "at least one scan, got none"),
    ],
)
def test_files_that_are_no_table(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "cohort.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_cohort(path)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"CSV file or a BIDS folder, got .*none\.csv"):
        read_cohort(tmp_path / "none.csv")


def test_byte_order_mark_and_windows_lines(tmp_path: Path) -> None:
    path = tmp_path / "cohort.csv"
    path.write_bytes(b"\xef\xbb\xbf" + HEADER.encode() + b"\r\ns1,1,a.nii,CN,70\r\n\r\n")
    assert read_cohort(path, check="table")["subject"].tolist() == ["s1"]


def test_the_template_is_a_cohort_and_its_columns_are_explained() -> None:
    folder = Path(__file__).parents[2] / "data"
    frame = read_cohort(folder / "cohort_template.csv", check="table")
    explained = json.loads((folder / "columns.json").read_text())
    assert set(frame.columns) <= set(explained)
    assert set(DIAGNOSES) == set(explained["diagnosis"]["Levels"])
    assert set(SPLITS) == set(explained["split"]["Levels"])


def test_a_table_of_several_chunks_is_read_as_one(tmp_path: Path) -> None:
    rows = [f"s{number},1,{number}.nii,CN,{number % 90}.5,{number}" for number in range(2 * CHUNK + 5)]
    rows[CHUNK] += ",more"
    frame_of = lambda rows: read_cohort(write(tmp_path, *rows, header=HEADER + ",mmse"), check="table")  # noqa: E731
    with pytest.raises(CohortError, match=f"row {CHUNK + 2}: must have 6 cells as the header has, got 7"):
        frame_of(rows)
    del rows[CHUNK]
    frame = frame_of(rows)
    assert list(frame.index) == list(range(2 * CHUNK + 4))
    assert frame["mmse"].dtype == int
    assert frame["mmse"].sum() == sum(range(2 * CHUNK + 5)) - CHUNK
    table = read_table(tmp_path / "cohort.csv")
    assert list(table.lines) == list(range(2, 2 * CHUNK + 6))
    assert [",".join(row) for row in table.rows] == rows
    for cells in (["x"], ["x"] * (len(rows) + 1)):
        with pytest.raises(ValueError, match="Length"):
            table.with_column("more", cells)
    write_table(tmp_path / "again.csv", table)
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "cohort.csv").read_bytes()


@pytest.mark.parametrize("where", [0, 3 * CHUNK])
def test_binary_data_is_told_wherever_it_begins(tmp_path: Path, where: int) -> None:
    path = write(tmp_path, *(f"s{number},1,{number}.nii,CN,70" for number in range(3 * CHUNK)))
    for damage in (b"\0", b"\xff"):
        whole = path.read_bytes()
        (tmp_path / "damaged.csv").write_bytes(whole[: 10 * where] + damage + whole[10 * where :])
        with pytest.raises(InputError, match="got binary data"):
            read_cohort(tmp_path / "damaged.csv", check="table")


MEASURE = """
import resource, sys
from ldae.data.cohort import read_cohort
from ldae.data.split import split_hash, split_subjects
peaks = []
for path in sys.argv[1:]:
    frame = read_cohort(path, check="table")
    split_hash(frame.assign(split=split_subjects(frame)))
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(*peaks)
"""


def test_a_list_of_scans_takes_less_than_a_kilobyte_a_scan(tmp_path: Path) -> None:
    """Read, checked, split and hashed: a file's own 40 bytes a row; rows of Python's text took 1.6 kB."""
    count = 40_000
    paths = []
    for scans in (1000, count):
        rows = (f"sub-{number:06d},1,scans/{number}.nii.gz,CN,70.5" for number in range(scans))
        paths.append(write(tmp_path, *rows).rename(tmp_path / f"{scans}.csv"))
    told = subprocess.run([sys.executable, "-c", MEASURE, *paths], capture_output=True, text=True, check=True)
    small, large = map(int, told.stdout.split())
    assert (large - small) * 1024 / count < 1000
