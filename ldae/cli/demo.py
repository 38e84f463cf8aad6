# SPDX-License-Identifier: Apache-2.0
"""The demo as a list of commands, each done only when its inputs are not those of its last time."""

from __future__ import annotations

import csv
import shlex
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ldae.cli.state import StageFolder
from ldae.data.artefact import read_json, write_json
from ldae.data.stamp import is_current, write_stamp

STAGES = {"autoencoder": "aekl", "denoiser": "ldae_pretrain", "representation": "ldae_repr_learn"}
TARGETS = (0.05, 0.2, 0.4, 0.6, 0.8, 0.95)
JUDGED_SAMPLES, SAMPLE_STEPS = 36, 5
EVALUATIONS = ("reconstruction", "code", "comparison", "counterfactual", "interpolation")
SAMPLER = "code_sampler"
# Of a pipeline, what is written once: a code sampler is added to its index later.
ASSEMBLED = "pipeline/statistics/config.json"
Words = Sequence[str]


@dataclass(frozen=True)
class Step:
    """One command of the demo.

    Attributes:
        name: What it is called in timings.json.
        words: The command, without the program's name.
        inputs: Files and folders that it reads.
        outputs: Files and folders that it writes; none for `fit`, which knows by itself when to do nothing.
    """

    name: str
    words: tuple[str, ...]
    inputs: tuple[Path, ...] = ()
    outputs: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Demo:
    """A run folder and the configs that it is trained with.

    Attributes:
        run_dir: Folder of the run.
        configs: Where the configs lie, by name: "demo" is configs/demo.
    """

    run_dir: Path
    configs: str = "demo"

    @property
    def cohort(self) -> Path:
        """Table of the synthetic cohort."""
        return self.run_dir / "cohort" / "cohort.csv"

    @property
    def pipeline(self) -> Path:
        """Folder of the trained pipeline."""
        return self.run_dir / "pipeline"

    def run(self, main: Callable[[Words], int]) -> int:
        """Do what is not done; stop at the first command that fails, with its exit code."""
        for step in self._steps():
            print(f"\n$ ldae {shlex.join(step.words)}", flush=True)
            code = self._do(step, main)
            if code:
                return code
        return 0

    def _steps(self) -> Iterator[Step]:
        yield self._step("phantom", "phantom --out {run}/cohort", outputs=("cohort",))
        yield from self._training()
        yield from self._measuring()
        yield from self._rendering()
        self._write_timings()
        yield self._step(
            "report",
            "report --run-dir {run}",
            inputs=("pipeline", "heads", "evaluation", "scans", "timings.json"),
            outputs=("report.html", "summary.json"),
        )

    def _training(self) -> Iterator[Step]:
        for kind, config in STAGES.items():
            yield self._fit(kind, config)
            if kind == "autoencoder":
                yield self._step(
                    "latents",
                    "latents --run-dir {run}",
                    inputs=("cohort/cohort.csv", "autoencoder/config.json"),
                    outputs=("latents",),
                )

    def _fit(self, kind: str, config: str) -> Step:
        name = f"{self.configs}/{config}.yaml"
        return self._step(kind, f"fit --config {name} --run_dir {{run}} --overwrite stale")

    def _measuring(self) -> Iterator[Step]:
        made = (ASSEMBLED, "cohort/cohort.csv")
        yield self._step(
            "embed",
            "embed --pipeline {run}/pipeline --cohort {run}/cohort/cohort.csv --cache {run}/cache "
            "--out {run}",
            inputs=made,
            outputs=("embeddings.parquet",),
        )
        yield self._fit(SAMPLER, SAMPLER)
        for target in ("diagnosis", "age"):
            yield self._step(
                f"probe_{target}",
                f"probe --run-dir {{run}} --target {target}",
                inputs=("embeddings.parquet",),
                outputs=(f"heads/{target}",),
            )
        for name in EVALUATIONS:
            yield self._step(
                f"evaluate_{name}",
                f"evaluate {name} --run-dir {{run}}",
                inputs=(*made, "embeddings.parquet", "heads"),
                outputs=(f"evaluation/{name}",),
            )
        yield self._step(
            "evaluate_sampling",
            f"evaluate sampling --run-dir {{run}} --limit {JUDGED_SAMPLES} --decode-steps {SAMPLE_STEPS}",
            inputs=(*made, "embeddings.parquet", f"{SAMPLER}/config.json"),
            outputs=("evaluation/sampling",),
        )

    def _rendering(self) -> Iterator[Step]:
        healthy, ill, visits = self._test_scans()
        series = " ".join(f"--target {value}" for value in TARGETS)
        commands: dict[str, tuple[list[Path], str]] = {
            "reconstruct": ([healthy, ill], ""),
            "vary": ([ill], "-n 4"),
            "interpolate": ([visits[0], visits[-1]], "--fraction 0.5"),
            "manipulate": (
                [ill],
                f"--head {{run}}/heads/diagnosis --target-class AD {series} --hold {{run}}/heads/age",
            ),
        }
        for verb, (scans, options) in commands.items():
            yield self._step(
                verb,
                f"{verb} --pipeline {{run}}/pipeline --out {{run}}/scans/{verb} {options}",
                scans=scans,
                inputs=(ASSEMBLED, "heads", "cohort/cohort.csv"),
                outputs=(f"scans/{verb}",),
            )
        yield self._step(
            "sample",
            "sample --pipeline {run}/pipeline --out {run}/scans/sample -n 4",
            inputs=(ASSEMBLED, "embeddings.parquet", f"{SAMPLER}/config.json"),
            outputs=("scans/sample",),
        )

    def _test_scans(self) -> tuple[Path, Path, list[Path]]:
        """A healthy and an ill test subject's first scan, and the visits of one that came three times."""
        with self.cohort.open(newline="", encoding="utf-8") as stream:
            rows = [row for row in csv.DictReader(stream) if row["split"] == "test"]
        visits: dict[str, list[Path]] = defaultdict(list)
        for row in rows:
            visits[row["subject"]].append(self.cohort.parent / row["path"])
        first = {row["diagnosis"]: visits[row["subject"]][0] for row in reversed(rows)}
        return first["CN"], first["AD"], max(visits.values(), key=len)

    def _step(
        self,
        name: str,
        command: str,
        *,
        inputs: Sequence[str] = (),
        outputs: Sequence[str] = (),
        scans: Sequence[Path] = (),
    ) -> Step:
        """A step from its command, in which {run} is the run folder, and the scans that follow the verb."""
        verb, *words = (word.format(run=self.run_dir) for word in command.split())
        return Step(
            name=name,
            words=(verb, *map(str, scans), *words),
            inputs=tuple(self.run_dir / path for path in inputs),
            outputs=tuple(self.run_dir / path for path in outputs),
        )

    def _stamp(self, name: str) -> Path:
        return self.run_dir / "stamps" / f"{name}.json"

    def _do(self, step: Step, main: Callable[[Words], int]) -> int:
        stamp = self._stamp(step.name)
        if step.outputs and is_current(stamp, command=step.words, inputs=step.inputs, outputs=step.outputs):
            print("nothing changed since the last time")
            return 0
        started = time.perf_counter()
        code = main(step.words)
        if code == 0 and step.outputs:
            write_stamp(
                stamp,
                command=step.words,
                inputs=step.inputs,
                outputs=step.outputs,
                seconds=time.perf_counter() - started,
            )
        return code

    def _write_timings(self) -> None:
        """Seconds of every step, each as long as it took the last time that it really ran."""
        seconds = {
            path.stem: float(read_json(path)["seconds"])
            for path in sorted(self._stamp("*").parent.glob("*.json"))
        }
        for kind in (*STAGES, SAMPLER):
            state = StageFolder(run_dir=self.run_dir, kind=kind).read()
            if state is not None:
                seconds[kind] = state.seconds
        seconds.pop("report", None)
        timings = {f"seconds_{name}": value for name, value in seconds.items()}
        write_json(self.run_dir / "timings.json", {**timings, "seconds_total": sum(seconds.values())})
