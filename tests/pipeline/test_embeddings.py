# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ldae.data import embeddings as files
from ldae.data.artefact import sha256_json
from ldae.data.cache import VolumeCache
from ldae.data.shard import Shard
from ldae.data.split import split_hash
from ldae.errors import CheckpointError, InputError, StorageError
from ldae.pipeline import codec
from ldae.pipeline import embed_cohort as job
from ldae.pipeline.embed_cohort import embed_cohort, part_path
from ldae.pipeline.embeddings import (
    code_array,
    code_columns,
    depth_array,
    embed_scans,
    read_embeddings,
    write_embeddings,
)
from ldae.pipeline.pipeline import LDAEPipeline


def embed(run_dir: Path, out: Path, **options: object) -> Path:
    return embed_cohort(
        run_dir / "pipeline",
        run_dir / "cohort" / "cohort.csv",
        out=out,
        device="cpu",
        cache=run_dir / "cache",
        **options,  # type: ignore[arg-type]
    )


def test_file_holds_codes_and_hashes(
    run_dir: Path, pipe: LDAEPipeline, cohort: pd.DataFrame, embeddings: pd.DataFrame, tmp_path: Path
) -> None:
    table = read_embeddings(embed(run_dir, tmp_path / "embeddings.parquet"))
    assert list(table.columns) == list(embeddings.columns)
    assert code_columns(table)[:2] == ["y_000", "y_001"]
    # the cache holds float16
    np.testing.assert_allclose(code_array(table), code_array(embeddings), atol=2e-2)
    pd.testing.assert_frame_equal(table[["subject", "age", "site"]], cohort[["subject", "age", "site"]])
    assert table.attrs["pipeline"] == pipe.sha256
    assert table.attrs["split"] == split_hash(cohort) == pipe.split
    np.testing.assert_allclose(table.attrs["code_std"], pipe.statistics.std)


def test_a_second_time_does_nothing(run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = embed(run_dir, tmp_path / "embeddings.parquet")
    before = out.stat().st_mtime_ns

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("networks were loaded")

    monkeypatch.setattr(codec, "load_networks", fail)
    embed(run_dir, out)
    assert out.stat().st_mtime_ns == before
    with pytest.raises(AssertionError, match="networks were loaded"):
        embed(run_dir, out, splits=["test"])
    with pytest.raises(AssertionError, match="networks were loaded"):
        embed(run_dir, out, overwrite=True)


def test_only_some_splits(run_dir: Path, tmp_path: Path, pipe: LDAEPipeline) -> None:
    table = read_embeddings(embed(run_dir, tmp_path / "test.parquet", splits=["test", "cal"]))
    assert set(table["split"]) == {"test", "cal"}
    # of the whole cohort, so that it can be compared with the pipeline's
    assert table.attrs["split"] == pipe.split
    with pytest.raises(InputError, match=r"splits must be among train, val, cal, test.*'all'"):
        embed(run_dir, tmp_path / "all.parquet", splits=["all"])


def test_another_split_than_the_pipeline_s_is_said(
    run_dir: Path, cohort: pd.DataFrame, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = cohort.assign(split="test")
    with caplog.at_level(logging.WARNING):
        embed_cohort(run_dir / "pipeline", rows, out=tmp_path / "a.parquet", device="cpu")
    assert "none of its scans may count as held out" in caplog.text


def test_scans_without_a_cohort(run_dir: Path, scans: list[str], tmp_path: Path) -> None:
    out = embed_cohort(run_dir / "pipeline", scans[:2], out=tmp_path / "a.parquet", device="cpu")
    table = read_embeddings(out)
    assert list(table["subject"]) == ["sub-00", "sub-01"]
    assert table["split"].isna().all()
    assert table.attrs["split"] is None


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"a\.parquet is missing.*ldae embed"):
        read_embeddings(tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_text("subject,age")
    with pytest.raises(CheckpointError, match="must be a Parquet file"):
        read_embeddings(tmp_path / "b.parquet")
    pd.DataFrame({"y_000": [1.0]}).to_parquet(tmp_path / "c.parquet")
    with pytest.raises(CheckpointError, match="without its hashes"):
        read_embeddings(tmp_path / "c.parquet")


def test_depths_stand_beside_the_code(run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = read_embeddings(embed(run_dir, tmp_path / "plain.parquet"))
    out = embed(run_dir, tmp_path / "deep.parquet", depths=True)
    deep = read_embeddings(out)
    np.testing.assert_allclose(code_array(deep), code_array(plain), atol=1e-6)
    values, widths = depth_array(deep)
    assert values.shape == (len(deep), sum(widths))
    assert widths[-1] == code_array(plain).shape[1]
    assert np.isfinite(values).all()
    assert (values.std(axis=0) > 0).any()
    with pytest.raises(InputError, match="Run: ldae embed --depths"):
        depth_array(plain)

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("networks were loaded")

    monkeypatch.setattr(codec, "load_networks", fail)
    embed(run_dir, out)  # a table with depths serves without
    with pytest.raises(AssertionError, match="networks were loaded"):
        embed(run_dir, tmp_path / "plain.parquet", depths=True)


def test_parts_merge_to_the_table_of_one_run(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = read_embeddings(embed(run_dir, tmp_path / "whole.parquet"))
    out = tmp_path / "embeddings.parquet"
    for number in (2, 1, 3):
        assert embed(run_dir, out, shard=Shard(number, 3)) == part_path(out, Shard(number, 3))
    with monkeypatch.context() as patch:
        patch.setattr(codec, "load_networks", None)
        merged = read_embeddings(embed(run_dir, out))
    names = [name for name in whole.attrs if name != "path"]
    assert {name: merged.attrs[name] for name in names} == {name: whole.attrs[name] for name in names}
    pd.testing.assert_frame_equal(merged, whole, atol=1e-4)


def test_a_part_that_is_missing_is_computed_and_no_other(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = read_embeddings(embed(run_dir, tmp_path / "whole.parquet"))
    out = tmp_path / "embeddings.parquet"
    for number in (1, 3):
        embed(run_dir, out, shard=Shard(number, 3))
    embed(run_dir, out, shard=Shard(1, 2))  # half of them: the two thirds serve better
    asked, compute = [], embed_scans

    def counted(pipeline: LDAEPipeline, paths: list[str], **options: Any) -> Iterator[pd.DataFrame]:
        asked.append(len(paths))
        return compute(pipeline, paths, **options)

    monkeypatch.setattr(job, "embed_scans", counted)
    merged = read_embeddings(embed(run_dir, out))
    assert asked == [len(whole.iloc[Shard(2, 3).places])]
    pd.testing.assert_frame_equal(merged, whole, atol=1e-4)


def test_blocks_are_one_table(run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Computed, merged, and both, in blocks that divide neither parts nor batches evenly."""
    whole = read_embeddings(embed(run_dir, tmp_path / "whole.parquet", depths=True))
    monkeypatch.setattr(files, "ROWS_AT_ONCE", 5)
    monkeypatch.setattr(job, "ROWS_AT_ONCE", 5)
    out = tmp_path / "embeddings.parquet"
    for shards in ((), (1, 3), (2,)):
        for number in shards:
            embed(run_dir, out, shard=Shard(number, 3), depths=True)
        out.unlink(missing_ok=True)
        again = read_embeddings(embed(run_dir, out, depths=True))
        pd.testing.assert_frame_equal(again, whole, atol=1e-4)


def test_a_request_is_the_same_in_any_blocks(
    scans: list[str], pipe: LDAEPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = pd.DataFrame({"path": scans, "note": ['a "b", \u00e9'] * len(scans)})
    keys = [VolumeCache("", pipe.spec).key(path) for path in scans]
    expected = sha256_json([rows.to_csv(index=False), keys])
    for size in (1, 3, 1024):
        monkeypatch.setattr(job, "ROWS_AT_ONCE", size)
        assert job._request(rows, pipe.spec) == expected


def test_a_scan_that_cannot_be_read_later_on_is_blamed_and_not_the_table(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "ROWS_AT_ONCE", 5)
    compute = embed_scans

    def broken(pipeline: LDAEPipeline, paths: list[str], **options: Any) -> Iterator[pd.DataFrame]:
        yield next(compute(pipeline, paths, **options))
        raise OSError(errno.EIO, "Input/output error", "scan.nii.gz")

    out = embed(run_dir, tmp_path / "embeddings.parquet", splits=["test"])
    before = out.read_bytes()
    monkeypatch.setattr(job, "embed_scans", broken)
    with pytest.raises(OSError, match=r"Input/output error: 'scan\.nii\.gz'") as caught:
        embed(run_dir, out)
    assert not isinstance(caught.value, StorageError)
    assert out.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_parts_with_depths_serve_a_table_without(run_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "embeddings.parquet"
    embed(run_dir, out, shard=Shard(1, 2), depths=True)
    merged = read_embeddings(embed(run_dir, out))
    pd.testing.assert_frame_equal(
        merged, read_embeddings(embed(run_dir, tmp_path / "whole.parquet")), atol=1e-4
    )
    assert "depths" not in merged.attrs


def test_a_column_may_begin_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pd.DataFrame(
        {"subject": list("abcdef"), "site": [None] * 4 + ["x", "y"], "age": [np.nan] * 5 + [70]}
    )
    table = table.assign(note=pd.Series([None] * 6, dtype=object), y_000=np.arange(6, dtype=np.float32))
    table.attrs = {"pipeline": "0" * 64}
    write_embeddings(table, tmp_path / "one.parquet")
    monkeypatch.setattr(files, "ROWS_AT_ONCE", 2)
    write_embeddings(table, tmp_path / "three.parquet")
    one, three = (read_embeddings(tmp_path / name) for name in ("one.parquet", "three.parquet"))
    pd.testing.assert_frame_equal(three, one)
    assert three["site"].tolist()[4:] == ["x", "y"]
    assert three["y_000"].dtype == np.float32


def test_more_parts_than_scans_are_said(run_dir: Path, scans: list[str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cohort must hold scans, got none"):
        embed_cohort(run_dir / "pipeline", [], out=tmp_path / "a.parquet")
    with pytest.raises(InputError, match="shard 3/3 must hold scans, got 2 scans in all"):
        embed_cohort(run_dir / "pipeline", scans[:2], out=tmp_path / "a.parquet", shard=Shard(3, 3))


def test_columns_of_several_types_are_named(tmp_path: Path) -> None:
    table = pd.DataFrame({0: [1, 2], "mix": ["a", 1], "y_000": np.zeros(2, dtype=np.float32)})
    table.attrs = {"pipeline": "0" * 64}
    with pytest.raises(InputError, match=r"each hold values of one type: .*column mix"):
        write_embeddings(table, tmp_path / "a.parquet")
    write_embeddings(table.drop(columns="mix"), tmp_path / "a.parquet")
    assert list(read_embeddings(tmp_path / "a.parquet").columns) == ["0", "y_000"]


@pytest.mark.parametrize("text", ["0/4", "5/4", "2", "a/b", "1/0"])
def test_a_part_that_does_not_exist_is_said(text: str) -> None:
    with pytest.raises(InputError, match="shard must be a part such as 2/8"):
        Shard.parse(text)
