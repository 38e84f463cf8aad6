# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that cannot be gone on from are refused by name, and nothing in them is executed."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import pytest
import torch


class Harm:
    """What a harmful pickle does when it is read: here it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


@pytest.fixture
def interrupted(tiny: Path, ldae) -> Path:
    """The checkpoint of a stage whose component is not there yet."""
    assert ldae("fit", "--config", tiny).code == 0
    run = tiny.parent / "run"
    shutil.rmtree(run / "tiny")
    return run / "checkpoints" / "tiny" / "last.ckpt"


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_checkpoint(tiny: Path, ldae, interrupted: Path, share: float) -> None:
    whole = interrupted.read_bytes()
    interrupted.write_bytes(whole[: int(share * len(whole))])
    said = ldae("fit", "--config", tiny)
    assert said.code == 2
    assert f"{interrupted} must be a whole checkpoint of fit" in said.err
    assert "--overwrite true" in said.err
    assert said.err.count("\n") == 1
    assert not (tiny.parent / "run" / "tiny").exists()
    assert ldae("fit", "--config", tiny, "--overwrite", "true").code == 0


def test_a_pickle_is_not_executed(tiny: Path, ldae, interrupted: Path, tmp_path: Path) -> None:
    harm = tmp_path / "harm"
    pickle.loads(pickle.dumps(Harm(harm)))
    assert harm.exists(), "the pickle would do harm"
    harm.unlink()
    interrupted.write_bytes(pickle.dumps(Harm(harm)))
    assert ldae("fit", "--config", tiny).code == 2
    torch.save({"state_dict": {}, "loops": {}, "epoch": Harm(harm)}, interrupted)
    said = ldae("fit", "--config", tiny)
    assert said.code == 2
    assert str(interrupted) in said.err
    assert not harm.exists()


def test_something_else(tiny: Path, ldae, interrupted: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, interrupted)
    said = ldae("fit", "--config", tiny)
    assert said.code == 2
    assert f"{interrupted} must be a checkpoint of fit, got something else" in said.err


def test_weights_of_another_shape(tiny: Path, ldae, interrupted: Path) -> None:
    document = torch.load(interrupted, weights_only=True)
    document["state_dict"]["net.weight"] = torch.zeros(1, 7)
    torch.save(document, interrupted)
    for verb in ("fit", "validate"):
        said = ldae(verb, "--config", tiny)
        assert said.code == 2
        assert f"{interrupted} must hold weights of this configuration" in said.err
        assert "size mismatch for net.weight" in said.err
        assert said.err.count("\n") == 1


def test_a_checkpoint_that_is_not_there(tiny: Path, ldae) -> None:
    said = ldae("fit", "--config", tiny, "--ckpt_path", "no/such.ckpt")
    assert said.code == 2
    assert "no/such.ckpt" in said.err


def test_two_trainings_of_one_stage(tiny: Path, ldae) -> None:
    import subprocess
    import sys

    run = tiny.parent / "run"
    hold = (
        "import sys, time; from ldae.data.lock import held\n"
        "with held(sys.argv[1], part='tiny'): print('holds', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", hold, str(run)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        said = ldae("fit", "--config", tiny)
        other.kill()
    assert said.code == 2
    assert f"process {other.pid}" in said.err
    assert str(run) in said.err
    assert ldae("fit", "--config", tiny).code == 0


VERSION = "pytorch-lightning_version"


def spoil(path: Path, what: str) -> None:
    """Leave the weights of a checkpoint and take away, or empty, what else a training goes on from."""
    document = torch.load(path, weights_only=True)
    if what == "weights alone":
        document = {key: document[key] for key in ("state_dict", VERSION)}
    elif what == "optimiser without its state":
        document["optimizer_states"] = [{}]
    elif what == "no place in the epochs":
        document["loops"] = {}
    else:
        del document[what]
    torch.save(document, path)


@pytest.mark.parametrize(
    "what",
    [
        "optimizer_states",
        "lr_schedulers",
        "loops",
        "epoch",
        "global_step",
        "weights alone",
        "optimiser without its state",
        "no place in the epochs",
    ],
)
def test_weights_are_not_enough_to_go_on_from(tiny: Path, ldae, interrupted: Path, what: str) -> None:
    spoil(interrupted, what)
    damaged = interrupted.read_bytes()
    said = ldae("fit", "--config", tiny)
    assert said.code == 2
    assert said.err == (
        f"ldae: {interrupted} must hold all that a training goes on from, got weights without the state of "
        "the optimiser or how far it has come. Bring the whole file back, or train anew with --overwrite "
        "true.\n"
    )
    assert interrupted.read_bytes() == damaged
    assert not (tiny.parent / "run" / "tiny").exists()
    assert ldae("fit", "--config", tiny, "--overwrite", "true").code == 0


@pytest.mark.parametrize("what", ["optimizer_states", "weights alone"])
def test_weights_are_enough_to_judge(tiny: Path, ldae, interrupted: Path, what: str) -> None:
    whole = ldae("validate", "--config", tiny)
    assert whole.code == 0
    spoil(interrupted, what)
    said = ldae("validate", "--config", tiny)
    assert said.code == 0
    assert said.out == whole.out
    assert "val/loss" in said.out


@pytest.mark.parametrize(
    ("what", "verbs"), [(VERSION, ("fit", "validate")), ("no place in the epochs", ("validate",))]
)
def test_what_fit_did_not_write(
    tiny: Path, ldae, interrupted: Path, what: str, verbs: tuple[str, ...]
) -> None:
    spoil(interrupted, what)
    for verb in verbs:
        said = ldae(verb, "--config", tiny)
        assert said.code == 2
        assert said.err == (
            f"ldae: {interrupted} must be a checkpoint of fit, got something else. Bring the whole file "
            "back, or train anew with --overwrite true.\n"
        )


@pytest.mark.parametrize("way", ["pickle", "objects"])
def test_a_pickle_is_refused_without_advice(
    tiny: Path, ldae, interrupted: Path, tmp_path: Path, way: str
) -> None:
    harm = Harm(tmp_path / "harm")
    if way == "pickle":
        interrupted.write_bytes(pickle.dumps(harm))
        told = "a whole checkpoint of fit, got one cut short, or another file"
    else:
        document = torch.load(interrupted, weights_only=True)
        torch.save({**document, "epoch": harm}, interrupted)
        told = "a checkpoint of fit, got objects that loading would execute"
    for verb in ("fit", "validate"):
        said = ldae(verb, "--config", tiny)
        assert said.code == 2
        assert said.err == (
            f"ldae: {interrupted} must be {told}. Bring the whole file back, or train anew with --overwrite "
            "true.\n"
        )
    assert not harm.path.exists()
