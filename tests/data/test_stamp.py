# SPDX-License-Identifier: Apache-2.0
"""Stamps: a step is current until its command, an input or an output changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ldae.data.stamp import fingerprint, is_current, write_stamp


@pytest.fixture
def step(tmp_path: Path) -> dict[str, object]:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "table.csv").write_text("a")
    (tmp_path / "in" / "scan.nii").write_bytes(b"1")
    (tmp_path / "out.json").write_text("{}")
    return {"command": ["verb"], "inputs": [tmp_path / "in"], "outputs": [tmp_path / "out.json"]}


def test_a_step_is_current_after_it_was_done(tmp_path: Path, step: dict[str, object]) -> None:
    stamp = tmp_path / "stamps" / "verb.json"
    assert not is_current(stamp, **step)
    write_stamp(stamp, **step, seconds=1.5)
    assert is_current(stamp, **step)
    assert not is_current(stamp, **{**step, "command": ["verb", "--more"]})


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "in" / "table.csv").write_text("b"),
        lambda folder: (folder / "in" / "scan.nii").write_bytes(b"12"),
        lambda folder: (folder / "in" / "new.nii").write_bytes(b""),
        lambda folder: (folder / "out.json").unlink(),
        lambda folder: (folder / "out.json").write_text("[]"),
    ],
)
def test_any_change_makes_it_stale(
    tmp_path: Path, step: dict[str, object], change: Callable[[Path], object]
) -> None:
    stamp = tmp_path / "stamp.json"
    write_stamp(stamp, **step, seconds=1.5)
    change(tmp_path)
    assert not is_current(stamp, **step)


def test_what_is_not_there_has_no_fingerprint(tmp_path: Path) -> None:
    assert fingerprint(tmp_path / "nothing") == ""
