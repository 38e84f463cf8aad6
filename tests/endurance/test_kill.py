# SPDX-License-Identifier: Apache-2.0
"""SIGKILL at twenty random moments of every stage and verb: no torn file, the same artefact in the end."""

from __future__ import annotations

import csv
import gzip
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked import run_whole, server, start
from pyarrow import parquet
from safetensors import safe_open

from ldae.data.artefact import read_json

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
KILLS = 20
# Where the machine is faster than it was when the command was timed, many a run ends before its moment.
MOST_FINISHED = 5 * KILLS
FASTER = 0.98
# What tells when and how long, not what; of tables, the columns of seconds.
TIMES = {"seconds", "secondsTotal", "date", "time"}
TIMED = "seconds"


@dataclass(frozen=True)
class Case:
    """A command that is killed.

    Attributes:
        words: The command, or several with && between them; {run} is its run folder, {tiny} the tiny run,
            {sampled} its pipeline with a code sampler, {first} and {second} two scans.
        needs: Parts of the tiny run that it reads.
        copies: Parts that it changes, and therefore gets copies of.
    """

    words: str
    needs: tuple[str, ...] = ()
    copies: tuple[str, ...] = ()


def training(name: str, *, overlay: str | None = None) -> str:
    tiny = ROOT / "tests" / "tiny" / f"{overlay or name}.yaml"
    return f"fit --config demo/{name}.yaml --config {tiny} --run_dir {{run}} --trainer.max_epochs 2"


PIPELINE = ("pipeline", "cohort", "cache")
EVALUATION = (*PIPELINE, "embeddings.parquet", "heads")
# Without what tells that it is a phantom, whose true scans take long to render.
REAL = ("pipeline", "cohort/cohort.csv", "cohort/scans", "cache", "heads")
FEW = "--run-dir {run} --limit 2 --steps 2 --decode-steps 2"
STEPS = "--pipeline {run}/pipeline --steps 2 --out {run}/scans"
LATENTS = "latents --run-dir {run} --batch-size 4"
EMBED = "embed --pipeline {run}/pipeline --cohort {run}/cohort/cohort.csv --cache {run}/new --out {run}/out"
CODED = ("cohort", "autoencoder", "denoiser", "representation", "embeddings.parquet")


def in_parts(words: str) -> str:
    """A command in two parts, and the one that merges them."""
    return f"{words} --shard 1/2 && {words} --shard 2/2 && {words}"


CASES = {
    "phantom": Case("phantom --out {run}/new --subjects 12 --spacing 10 --size 16 24 16 --jobs 1"),
    "split": Case("split --cohort {run}/cohort/cohort.csv --seed 7 --overwrite", copies=("cohort",)),
    "autoencoder": Case(training("aekl"), ("cohort", "cache")),
    "latents": Case(LATENTS, ("cohort", "cache", "autoencoder")),
    "latents in parts": Case(in_parts(LATENTS), ("cohort", "cache", "autoencoder")),
    "denoiser": Case(training("ldae_pretrain"), ("cohort", "cache", "autoencoder", "latents")),
    "representation": Case(
        training("ldae_repr_learn"), ("cohort", "cache", "autoencoder", "latents", "denoiser")
    ),
    "assemble": Case(
        "assemble --run-dir {run}", ("cohort", "cache", "autoencoder", "denoiser", "representation")
    ),
    "embed": Case(EMBED, ("pipeline", "cohort")),
    "embed in parts": Case(in_parts(EMBED), ("pipeline", "cohort")),
    "code sampler": Case(training("code_sampler"), CODED, copies=("pipeline",)),
    "classification": Case(training("classification", overlay="supervised"), ("cohort", "cache")),
    "regression": Case(training("regression", overlay="supervised"), ("cohort", "cache")),
    "probe": Case("probe --run-dir {run} --target diagnosis", ("embeddings.parquet",)),
    "evaluate code": Case("evaluate code --run-dir {run} --limit 4", EVALUATION),
    "evaluate reconstruction": Case(f"evaluate reconstruction {FEW}", REAL),
    "evaluate solvers": Case(f"evaluate reconstruction --sweep --solver ddim exact {FEW} 3", REAL),
    "evaluate comparison": Case("evaluate comparison --run-dir {run}", EVALUATION),
    "evaluate counterfactual": Case(f"evaluate counterfactual {FEW}", REAL),
    "evaluate interpolation": Case(f"evaluate interpolation {FEW}", REAL),
    "doctor": Case("doctor --pipeline {run}/pipeline --limit 5", EVALUATION),
    "reconstruct": Case(f"reconstruct {{first}} {{second}} {STEPS}", PIPELINE),
    "vary": Case(f"vary {{first}} -n 2 {STEPS}", PIPELINE),
    "interpolate": Case(f"interpolate {{first}} {{second}} {STEPS}", PIPELINE),
    "manipulate": Case(
        f"manipulate {{first}} --head {{run}}/heads/age --target 60 --target 80 {STEPS}", (*PIPELINE, "heads")
    ),
    "sample": Case(
        "sample --pipeline {sampled} --embeddings {tiny}/embeddings.parquet -n 2 --steps 2 --out {run}/scans"
    ),
    "check": Case("check {first} {second} --pipeline {run}/pipeline --out {run}/out", ("pipeline",)),
    "report": Case("report --run-dir {run}", (*EVALUATION, "logs")),
}


@pytest.fixture(scope="module")
def forks() -> Iterator[ForkServerContext]:
    """Processes that begin with everything imported, one thread each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield server()


@pytest.fixture(scope="module")
def sampled(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory, forks: ForkServerContext) -> Path:
    """The tiny run's pipeline with a code sampler."""
    folder = tmp_path_factory.mktemp("sampled")
    case = CASES["code sampler"]
    make_run(folder / "run", tiny_run, case)
    run_whole(forks, case.words.format(run=folder / "run").split(), log=folder / "log")
    return folder / "run" / "pipeline"


def make_run(run: Path, tiny: Path, case: Case) -> None:
    """The run folder as it lies before the command."""
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir()
    for part in case.needs:
        (run / part).parent.mkdir(exist_ok=True)
        (run / part).symlink_to(tiny / part)
    for part in case.copies:
        shutil.copytree(tiny / part, run / part)


def files(run: Path) -> Iterator[Path]:
    """What the command has written, without what it had not finished."""
    for path in sorted(run.rglob("*")):
        name = path.relative_to(run)
        hidden = any(part.startswith((".partial", ".")) for part in name.parts)
        given = any((run / parent).is_symlink() for parent in (name, *name.parents))
        if path.is_file() and not hidden and not given and "logs" not in name.parts:
            yield path


def read(path: Path) -> Any:
    """The content of a file, whole or an error, without times."""
    name = path.name
    if name == "stamp.json":  # the hashes of outputs that tell how long they took
        document = timeless(read_json(path))
        return {**document, "outputs": sorted(document["outputs"])}
    if name.endswith(".json"):
        return timeless(read_json(path))
    if name.endswith(".jsonl"):
        return sorted(line for line in path.read_text().splitlines() if line.endswith("}"))
    if name.endswith(".safetensors"):
        with safe_open(path, framework="np") as stream:
            return {key: stream.get_tensor(key).tobytes() for key in stream.keys()}  # noqa: SIM118
    if name.endswith(".parquet"):
        columns = parquet.read_table(path).to_pydict()
        return repr({key: values for key, values in columns.items() if TIMED not in key})
    if name.endswith(".csv"):
        return [{key: value for key, value in row.items() if TIMED not in key} for row in rows(path)]
    if name.endswith(".npy"):
        return np.load(path, allow_pickle=False).tobytes()
    if name.endswith(".nii.gz"):
        return gzip.decompress(path.read_bytes())
    if name.endswith(".ckpt"):
        return {key: value.numpy().tobytes() for key, value in torch.load(path)["state_dict"].items()}
    if name.endswith(".html"):
        assert path.read_text().rstrip().endswith("</html>")
        return None
    assert path.stat().st_size > 0
    return path.read_bytes()


def rows(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a table, as many cells in each as its header has."""
    with path.open(newline="") as stream:
        header, *lines = csv.reader(stream)
    yield from (dict(zip(header, cells, strict=True)) for cells in lines)


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: timeless(inner) for key, inner in value.items() if key not in TIMES and key != "request"}
    return [timeless(inner) for inner in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", CASES)
def test_killed_twenty_times(
    name: str, tiny_run: Path, sampled: Path, tmp_path: Path, forks: ForkServerContext
) -> None:
    case, run, log = CASES[name], tmp_path / "run", tmp_path / "log"
    first, second = sorted((tiny_run / "cohort" / "scans").rglob("*.nii.gz"))[:2]
    given = {"run": run, "tiny": tiny_run, "sampled": sampled, "first": first, "second": second}
    words = case.words.format(**given).split()

    make_run(run, tiny_run, case)
    run_whole(forks, words, log=log)  # the first one also fills what is kept between commands
    make_run(run, tiny_run, case)
    seconds = run_whole(forks, words, log=log)
    whole = {str(path.relative_to(run)): read(path) for path in files(run)}
    assert whole

    moments = random.Random(name)
    make_run(run, tiny_run, case)
    kills = finished = 0
    while kills < KILLS and finished < MOST_FINISHED:
        process = start(forks, words, log=log)
        process.join(moments.uniform(0, seconds))
        if process.exitcode is None:
            process.kill()
            process.join()
            kills += 1
            for path in files(run):
                if path.suffix != ".jsonl":
                    read(path)
        else:
            assert process.exitcode == 0, log.read_text()
            finished += 1
            seconds *= FASTER
            make_run(run, tiny_run, case)
    run_whole(forks, words, log=log)
    print(f"{name}: {seconds:.2f} s whole, {kills} kills, {finished} finished")
    assert kills == KILLS
    found = {str(path.relative_to(run)): read(path) for path in files(run)}
    assert found.keys() == whole.keys()
    assert [file for file, content in whole.items() if found[file] != content] == []
    assert not list(run.rglob(".partial*"))
    assert not list(run.rglob(".*.lock"))
    assert "Traceback" not in log.read_text()
