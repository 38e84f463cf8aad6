# SPDX-License-Identifier: Apache-2.0
"""A thousand malformed tables, documents and scans: a sentence or a result, and nothing half made."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ldae.cli.configs import read_configs
from ldae.cli.main import main
from ldae.cli.state import StageFolder
from ldae.data.artefact import load_component
from ldae.data.cache import VolumeCache
from ldae.data.cohort import read_cohort
from ldae.data.spec import PreprocessingSpec
from ldae.data.split import freeze_split
from ldae.data.stamp import is_current
from ldae.errors import CheckpointError, InputError, StorageError
from ldae.pipeline.folder import read_index
from ldae.pipeline.head_folder import load_head
from ldae.pipeline.statistics import load_statistics
from ldae.stages.components import load_autoencoder, load_denoiser, load_representation

pytestmark = pytest.mark.slow

SENTENCES = (InputError, CheckpointError, StorageError, FileNotFoundError)
SPEC = PreprocessingSpec(spacing=(10.0, 10.0, 10.0), size=(8, 8, 8))


@pytest.fixture(autouse=True, scope="module")
def denormal() -> None:
    """Training flushes denormal numbers for its whole process; hypothesis draws them."""
    torch.set_flush_denormal(False)


def examples(number: int) -> settings:
    """So many, the same each time, each in a few seconds at most."""
    return settings(
        max_examples=number,
        derandomize=True,
        database=None,
        deadline=timedelta(seconds=10),
        suppress_health_check=list(HealthCheck),
    )


def attempt(work: Callable[[], object]) -> None:
    """Let it work, or say in words why it does not."""
    try:
        work()
    except SENTENCES as error:
        told = str(error)
        assert len(told) > 20
        assert " " in told
        assert "Traceback" not in told


def listing(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*"))}


# --- tables -------------------------------------------------------------------------------------------

HEADER = ["subject", "session", "path", "diagnosis", "age", "split", "sex"]
WORDS = ("", "n/a", "NaN", "1e999", "-1", "60", "CN", "AD", "train", "test", "scan.nii.gz", "../", "/", "~")
CELLS = st.one_of(
    st.sampled_from(
        [
            *WORDS,
            "x" * 300 + ".nii",
            "scan.nii/x.nii",
            "x\0y.nii",
            "a\nb",
            '"',
            '""',
            "'",
            ",",
            "\t",
            "\ud800",
            "１２",
            "1_0",
            "0x10",
        ]
    ),
    st.text(max_size=12),
)


@st.composite
def tables(draw: st.DrawFn) -> bytes:
    """A cohort's table with something wrong, or only noise."""
    header = draw(st.one_of(st.just(HEADER), st.permutations(HEADER), st.lists(CELLS, max_size=8)))
    rows = draw(
        st.lists(st.lists(CELLS, min_size=max(0, len(header) - 1), max_size=len(header) + 1), max_size=5)
    )
    quote = draw(st.sampled_from(["", '"']))
    lines = [",".join(f"{quote}{cell}{quote}" for cell in row) for row in [header, *rows]]
    text = draw(st.sampled_from(["\n", "\r\n", "\r"])).join(lines)
    content = text.encode(draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1"])), "replace")
    return draw(st.one_of(st.just(content), st.just(content[: len(content) // 2]), st.binary(max_size=200)))


@given(content=tables())
@examples(400)
def test_tables(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("table", numbered=True)
    path = folder / "cohort.csv"
    path.write_bytes(content)
    attempt(lambda: read_cohort(path))
    attempt(lambda: freeze_split(path, seed=0))
    assert list(listing(folder)) == ["cohort.csv"]
    shutil.rmtree(folder)


# --- documents ----------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-3, 200),
        st.floats(allow_nan=True),
        st.text(max_size=8),
        st.sampled_from(["os.system", "../../x", "", "v", "x0"]),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


def places(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a document that something can be wrong at."""
    yield path
    items = (
        document.items()
        if isinstance(document, dict)
        else enumerate(document)
        if isinstance(document, list)
        else ()
    )
    for key, value in items:
        yield from places(value, (*path, key))


def changed(document: Any, path: tuple[Any, ...], value: Any, *, leave_out: bool) -> Any:
    if not path:
        return value
    copy = json.loads(json.dumps(document))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    if leave_out:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return copy


@st.composite
def documents(draw: st.DrawFn, whole: str) -> bytes:
    """A document with one value exchanged or left out, cut short, or only noise."""
    document = json.loads(whole)
    spot = draw(st.sampled_from(sorted(places(document), key=str)))
    text = json.dumps(changed(document, spot, draw(VALUES), leave_out=draw(st.booleans())))
    cut = draw(st.integers(0, len(text)))
    return draw(
        st.sampled_from([text.encode()] * 8 + [text[:cut].encode(), b"[" * 100_000, b"\xff" + text.encode()])
    )


def unet_config(run: Path) -> Any:
    return load_denoiser(run / "denoiser")[0].model.unet.config


LOADERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "component": ("autoencoder/config.json", lambda run: load_component(run / "autoencoder", "autoencoder")),
    "autoencoder": ("autoencoder/config.json", lambda run: load_autoencoder(run / "autoencoder")),
    "denoiser": ("denoiser/config.json", lambda run: load_denoiser(run / "denoiser")),
    "representation": (
        "representation/config.json",
        lambda run: load_representation(run / "representation", unet=unet_config(run)),
    ),
    "statistics": (
        "pipeline/statistics/config.json",
        lambda run: load_statistics(run / "pipeline/statistics"),
    ),
    "index": (
        "pipeline/model_index.json",
        lambda run: PreprocessingSpec.from_dict(read_index(run / "pipeline").spec),
    ),
    "head": ("heads/diagnosis/head.json", lambda run: load_head(run / "heads" / "diagnosis")),
    "stage": ("checkpoints/denoiser/stage.json", lambda run: StageFolder(run, "denoiser").read()),
    "stamp": ("stamp.json", lambda run: is_current(run / "stamp.json", command=["a"], inputs=[], outputs=[])),
    "yaml": (
        "checkpoints/denoiser/config.yaml",
        lambda run: read_configs([run / "checkpoints/denoiser/config.yaml"]),
    ),
}
PARTS = ("autoencoder", "denoiser", "representation", "pipeline", "heads", "checkpoints")


@pytest.fixture(scope="module")
def damaged_run(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tiny run's documents and weights."""
    run = tmp_path_factory.mktemp("fuzz") / "run"
    for part in PARTS:
        shutil.copytree(tiny_run / part, run / part)
    (run / "stamp.json").write_text(json.dumps({"command": ["a"], "inputs": {}, "outputs": {}, "seconds": 1}))
    return run


@pytest.mark.parametrize("name", LOADERS)
def test_documents(damaged_run: Path, name: str) -> None:
    file, read = LOADERS[name]
    path = damaged_run / file
    whole = path.read_bytes()
    text = whole.decode() if path.suffix == ".json" else json.dumps(read_configs([path]))

    @given(content=documents(text))
    @examples(40)
    def damage(content: bytes) -> None:
        path.write_bytes(content)
        attempt(lambda: read(damaged_run))

    before = listing(damaged_run)
    try:
        damage()
    finally:
        path.write_bytes(whole)
    assert listing(damaged_run) == before
    read(damaged_run)


# --- scans --------------------------------------------------------------------------------------------


def scan() -> bytes:
    """A small whole NIfTI file, not compressed."""
    voxels = np.random.default_rng(0).integers(0, 1000, (9, 10, 11)).astype(np.int16)
    image = nib.Nifti1Image(voxels, np.diag([8.0, 8.0, 8.0, 1.0]))
    image.header.set_xyzt_units("mm", "sec")
    stream = io.BytesIO()
    image.to_stream(stream)
    return stream.getvalue()


SCAN = scan()
# Where the header says something: dimensions, type, spacing, offset, scaling, units, codes and frames, magic.
FIELDS = [(0, 4), (40, 16), (70, 4), (76, 32), (108, 12), (123, 1), (252, 4), (256, 24), (280, 48), (344, 4)]


@st.composite
def scans(draw: st.DrawFn) -> tuple[str, bytes]:
    """A scan whose header lies, whose end is missing, or that is something else."""
    content = bytearray(SCAN)
    for _ in range(draw(st.integers(1, 3))):
        start, length = draw(st.sampled_from(FIELDS))
        size = draw(st.sampled_from([1, 2, 4]))
        place = start + draw(st.integers(0, max(0, length - size)))
        content[place : place + size] = draw(
            st.one_of(
                st.binary(min_size=size, max_size=size),
                st.sampled_from([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0\xc0\x7f", b"\0\0\x80\x7f"]).map(
                    lambda word, size=size: word[:size]
                ),
            )
        )
    whole = bytes(content)
    name = draw(st.sampled_from(["scan.nii", "scan.nii.gz"]))
    packed = gzip.compress(whole, mtime=0) if name.endswith(".gz") else whole
    end = draw(st.integers(0, len(packed)))
    return name, draw(st.sampled_from([packed] * 6 + [packed[:end], packed[end:], whole]))


@given(damaged=scans())
@examples(300)
def test_scans(tmp_path_factory: pytest.TempPathFactory, damaged: tuple[str, bytes]) -> None:
    name, content = damaged
    folder = tmp_path_factory.mktemp("scan", numbered=True)
    (folder / name).write_bytes(content)
    cache = VolumeCache(folder / "cache", SPEC)
    attempt(lambda: cache.prepare([folder / name]))
    with contextlib.suppress(FileNotFoundError):
        volume = cache.volume(folder / name)
        assert np.isfinite(volume).all()
        assert volume.min() >= 0
        assert volume.max() <= 1
    files = [path.name for path in (folder / "cache").glob("*")] if (folder / "cache").exists() else []
    assert len(files) in (0, 2), "an entry is two files or none"
    shutil.rmtree(folder)


# --- the program --------------------------------------------------------------------------------------


def say(words: list[str]) -> tuple[int, str]:
    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        code = main(words)
    return code, err.getvalue()


@given(content=tables(), damaged=scans(), seed=st.integers(0, 10))
@examples(60)
def test_the_program(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, damaged: tuple[str, bytes], seed: int
) -> None:
    folder = tmp_path_factory.mktemp("program", numbered=True)
    cohort, scan_path = folder / "cohort.csv", folder / damaged[0]
    cohort.write_bytes(content)
    scan_path.write_bytes(damaged[1])
    (folder / "config.yaml").write_bytes(content)
    before = listing(folder)
    for words in (
        ["split", "--cohort", str(cohort), "--seed", str(seed)],
        ["check", str(scan_path)],
        ["check", "--cohort", str(cohort)],
        ["latents", "--run-dir", str(folder), "--cohort", str(cohort)],
        ["embed", str(scan_path), "--pipeline", str(folder), "--out", str(folder / "out")],
        ["fit", "--config", str(folder / "config.yaml"), "--run_dir", str(folder / "run")],
    ):
        code, err = say(words)
        assert code in (0, 2), err
        assert "Traceback" not in err
        assert code == 0 or err.startswith("ldae"), err
    assert listing(folder) == before or b"split" not in content
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def trainable() -> None:
    """What `fit` imports, which takes longer than an example may."""
    for name in ("lightning.pytorch", "ldae.cli.training", "ldae.stages"):
        import_module(name)


@given(content=tables(), name=st.sampled_from(["aekl", "classification"]))
@examples(40)
def test_fit_on_any_cohort(
    trainable: None, tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str
) -> None:
    run = tmp_path_factory.mktemp("fit", numbered=True)
    cohort = run / "cohort" / "cohort.csv"
    cohort.parent.mkdir()
    cohort.write_bytes(content)
    code, err = say(["fit", "--config", f"demo/{name}.yaml", "--run_dir", str(run)])
    assert code == 2
    assert err.startswith("ldae: ")
    assert "Traceback" not in err
    assert str(cohort) in err
    assert [path for path in run.rglob("*") if path.is_file()] == [cohort]
    assert cohort.read_bytes() == content
    shutil.rmtree(run)
