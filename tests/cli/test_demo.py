# SPDX-License-Identifier: Apache-2.0
"""The demo's list of commands: what runs again, where it stops, what it times. Verbs are tested elsewhere."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from ldae.cli.demo import Demo, Step
from ldae.cli.main import VERBS
from ldae.cli.state import StageFolder, StageState

COHORT = """\
subject,session,path,diagnosis,age,split
1,1,scans/1_1.nii.gz,CN,60,test
2,1,scans/2_1.nii.gz,AD,70,test
2,2,scans/2_2.nii.gz,AD,71,test
2,3,scans/2_3.nii.gz,AD,72,test
3,1,scans/3_1.nii.gz,MCI,72,train
"""
KINDS = {"aekl": "autoencoder", "ldae_pretrain": "denoiser", "ldae_repr_learn": "representation"}


class Program:
    """Stands for the program: notes the words and writes what each verb writes."""

    def __init__(self, demo: Demo) -> None:
        self.demo = demo
        self.said: list[list[str]] = []
        self.failing = ""

    def __call__(self, words: Sequence[str]) -> int:
        self.said.append(list(words))
        if words[0] == self.failing:
            return 2
        run = self.demo.run_dir
        if words[0] == "phantom":
            self.demo.cohort.parent.mkdir(parents=True)
            self.demo.cohort.write_text(COHORT)
        if words[0] == "fit":
            name = Path(words[2]).stem
            stage = StageFolder(run, KINDS.get(name, name))
            stage.write(StageState(config={}, inputs={}, request="", seconds=60.0))
            # the index names the newest component, the statistics stay as they are
            (run / "pipeline" / "statistics").mkdir(parents=True, exist_ok=True)
            (run / "pipeline" / "statistics" / "config.json").write_text("{}")
            for path in (stage.artefact, run / "pipeline" / "model_index.json"):
                path.parent.mkdir(exist_ok=True)
                path.write_text(json.dumps(words))
        return 0

    def verbs(self) -> list[str]:
        return [words[0] for words in self.said]


@pytest.fixture
def demo(tmp_path: Path) -> Demo:
    return Demo(tmp_path / "a run")


@pytest.fixture
def program(demo: Demo, monkeypatch: pytest.MonkeyPatch) -> Program:
    return Program(demo)


def test_commands_come_in_order(demo: Demo, program: Program) -> None:
    assert demo.run(program) == 0
    verbs = program.verbs()
    assert set(verbs) <= set(VERBS)
    assert verbs[:5] == ["phantom", "fit", "latents", "fit", "fit"]
    assert verbs[-1] == "report"
    assert {"embed", "probe", "evaluate", "reconstruct", "vary", "interpolate", "manipulate", "sample"} < set(
        verbs
    )
    # the code sampler learns from the embeddings, and is there before it is judged and drawn from
    assert verbs.index("embed") + 1 == len(verbs) - 1 - verbs[::-1].index("fit") < verbs.index("sample")


def test_what_the_program_is_told_can_be_parsed(demo: Demo, program: Program) -> None:
    from importlib import import_module

    from ldae.cli.main import _parse

    demo.run(program)
    for verb, *rest in program.said:
        _parse(import_module(f"ldae.cli.verbs.{verb}"), verb=verb, words=rest)


def test_scans_are_those_of_test_subjects(demo: Demo, program: Program) -> None:
    demo.run(program)
    words = next(words for words in program.said if words[0] == "interpolate")
    assert [Path(word).name for word in words[1:3]] == ["2_1.nii.gz", "2_3.nii.gz"]
    words = next(words for words in program.said if words[0] == "reconstruct")
    assert [Path(word).name for word in words[1:3]] == ["1_1.nii.gz", "2_1.nii.gz"]


def test_a_second_time_only_fit_looks_again(demo: Demo, program: Program) -> None:
    demo.run(program)
    program.said.clear()
    assert demo.run(program) == 0
    assert program.verbs() == ["fit"] * 4


def test_a_changed_input_runs_what_depends_on_it(demo: Demo, program: Program) -> None:
    demo.run(program)
    program.said.clear()
    heads = demo.run_dir / "heads" / "diagnosis"
    heads.mkdir(parents=True)
    (heads / "head.json").write_text("{}")
    demo.run(program)
    assert set(program.verbs()) == {"fit", "probe", "evaluate", "report"} | {
        "reconstruct",
        "vary",
        "interpolate",
        "manipulate",
    }


def test_it_stops_where_a_command_fails_and_goes_on_from_there(demo: Demo, program: Program) -> None:
    program.failing = "embed"
    assert demo.run(program) == 2
    assert program.verbs()[-1] == "embed"
    program.failing = ""
    program.said.clear()
    assert demo.run(program) == 0
    assert program.verbs()[:4] == ["fit", "fit", "fit", "embed"]


def test_timings_stay_those_of_the_time_a_step_ran(demo: Demo, program: Program) -> None:
    demo.run(program)
    first = json.loads((demo.run_dir / "timings.json").read_text())
    assert {"seconds_phantom", "seconds_latents", "seconds_embed"} < set(first)
    for kind in (*KINDS.values(), "code_sampler"):
        assert first[f"seconds_{kind}"] == 60
    assert first["seconds_total"] == pytest.approx(
        sum(value for name, value in first.items() if name != "seconds_total")
    )
    demo.run(program)
    assert json.loads((demo.run_dir / "timings.json").read_text()) == first


def test_a_step_is_data() -> None:
    assert Step("embed", ("embed",)) == Step("embed", ("embed",))
