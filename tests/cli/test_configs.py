# SPDX-License-Identifier: Apache-2.0
"""Configs by name, merged, compared."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from ldae.cli import configs
from ldae.errors import InputError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("own.yaml", "configs/aekl.yaml", "configs/demo/tiny_demo.yaml"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("run_dir: here\n")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("own.yaml", "own.yaml"),
        ("aekl.yaml", "configs/aekl.yaml"),
        ("demo/tiny_demo.yaml", "configs/demo/tiny_demo.yaml"),
        ("configs/demo/tiny_demo.yaml", "configs/demo/tiny_demo.yaml"),
    ],
)
def test_a_config_is_found_as_given_then_by_name(folder: Path, name: str, found: str) -> None:
    assert configs.find_config(name) == Path(found)


def test_a_missing_config_lists_the_others(folder: Path) -> None:
    with pytest.raises(InputError, match=r"got nope\.yaml") as caught:
        configs.find_config("nope.yaml")
    assert "aekl.yaml" in str(caught.value)
    assert "demo/tiny_demo.yaml" in str(caught.value)


def test_the_checkout_is_searched_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    root = Path(__file__).resolve().parents[2]
    assert root / "configs" in configs.config_folders()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [1", "must be YAML"),
        ("just words", "must hold keys"),
        ("a: &a [1, *a]", "must hold a configuration, got 100000 values or more"),
        (
            "a: &a [1,1,1,1,1,1,1,1,1,1]\n"
            + "\n".join(f"{new}: &{new} [{','.join([f'*{old}'] * 10)}]" for old, new in pairwise("abcdefgh")),
            "must hold a configuration, got 100000 values or more",
        ),
    ],
)
def test_a_file_that_is_no_config_is_refused(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=told):
        configs.read_yaml(path)


def test_overlays_merge_tables_and_replace_the_rest() -> None:
    base = {"a": {"b": 1, "c": [1, 2]}, "d": 4}
    assert configs.merge(base, {"a": {"c": [3]}, "e": 5}) == {"a": {"b": 1, "c": [3]}, "d": 4, "e": 5}
    assert base == {"a": {"b": 1, "c": [1, 2]}, "d": 4}


@pytest.mark.parametrize("key", ["arguments", "class_weights"])
def test_a_table_of_free_names_is_replaced_as_a_whole(key: str) -> None:
    """As jsonargparse does with a value of type dict: another class's arguments do not mix with its own."""
    base = {"backbone": {"path": "a", "kept": 1, key: {"name": "convnext", "pretrained": True}}}
    overlay = {"backbone": {"path": "b", key: {"patch": 4}}}
    assert configs.merge(base, overlay) == {"backbone": {"path": "b", "kept": 1, key: {"patch": 4}}}


def test_circumstances_do_not_count() -> None:
    document = {
        "run_dir": "x",
        "trainer": {"max_epochs": 3, "devices": 2, "logger": {"class_path": "a"}, "accelerator": "gpu"},
        "data": {"init_args": {"num_workers": 4, "batch_size": 2, "run_dir": "x"}},
    }
    assert configs.essence(document) == {"trainer.max_epochs": 3, "data.init_args.batch_size": 2}


def test_differences_name_key_and_both_values() -> None:
    old = {"model.lr": 1, "trainer.max_epochs": 3, "trainer.of_another_lightning": 0, "model.gone": 2}
    new = {"model.lr": 2, "trainer.max_epochs": 3}
    assert configs.differences(old, new) == ["model.gone unset (was 2)", "model.lr 2 (was 1)"]


def test_the_cohort_is_the_named_one_else_the_runs_own() -> None:
    named = {"data": {"init_args": {"cohort": "mine.csv"}}}
    assert configs.cohort_path(named, run_dir=Path("run")) == Path("mine.csv")
    assert configs.cohort_path({}, run_dir=Path("run")) == Path("run/cohort/cohort.csv")
