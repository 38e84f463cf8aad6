# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C and SIGTERM while libraries are imported that make errors of their own of them."""

from __future__ import annotations

import contextlib
import importlib
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ldae.cli import ending
from ldae.cli.ending import Terminated, terminable
from ldae.errors import Interrupted

NAME = "library_for_tests"
# What a library does that is just being imported.
LIBRARIES = {
    "another error": """
try:
    signal.raise_signal({signal})
except KeyboardInterrupt as stop:
    raise RuntimeError("the backend cannot be set up") from stop
""",
    "an import error": """
try:
    signal.raise_signal({signal})
except BaseException:
    raise ImportError("cannot import name 'half' from partially initialized module") from None
""",
    "half a module": """
try:
    signal.raise_signal({signal})
    whole = True
except BaseException:
    pass
whole
""",
    "nothing": "signal.raise_signal({signal})",
}
ENDS = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated}


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Write the text of a module that can be imported, and has not been."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(text: str) -> None:
        (tmp_path / f"{NAME}.py").write_text(f"import signal\n{text}")
        monkeypatch.delitem(sys.modules, NAME, raising=False)
        importlib.invalidate_caches()

    return write


@pytest.fixture(autouse=True)
def usual() -> Iterator[None]:
    """Python's own answers to both: tests started in the background inherit that Ctrl-C is ignored."""
    before = {number: signal.getsignal(number) for number in ENDS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in ENDS]


@pytest.mark.parametrize("what", LIBRARIES)
@pytest.mark.parametrize("number", ENDS)
def test_what_a_library_makes_of_a_signal(
    library: Callable[[str], None], number: signal.Signals, what: str
) -> None:
    library(LIBRARIES[what].format(signal=int(number)))
    before = handlers()
    with pytest.raises(BaseException) as caught, terminable():  # noqa: PT011 - its type is looked at
        importlib.import_module(NAME)
    assert type(caught.value) is ENDS[number]
    assert (caught.value.__cause__ is None) == (what == "nothing")
    assert handlers() == before


def test_an_error_without_a_signal_is_what_it_is(library: Callable[[str], None]) -> None:
    library("raise RuntimeError('no driver')")
    before = handlers()
    with pytest.raises(RuntimeError, match="no driver") as caught, terminable():
        importlib.import_module(NAME)
    assert caught.value.__cause__ is None
    assert handlers() == before


@pytest.mark.parametrize("number", [None, *ENDS])
def test_what_says_where_to_go_on_is_kept(number: signal.Signals | None) -> None:
    told = Interrupted("Stopped and saved in last.ckpt.")

    def train() -> None:
        with contextlib.suppress(KeyboardInterrupt):
            if number is not None:
                signal.raise_signal(number)
        raise told

    with pytest.raises(Interrupted) as caught, terminable():
        train()
    assert caught.value is told


@pytest.mark.parametrize(("pause", "cleaned"), [(0.0, ["all"]), (0.02, [])])
def test_a_sigterm_soon_after_another_is_the_same(
    monkeypatch: pytest.MonkeyPatch, pause: float, cleaned: list[str]
) -> None:
    """`timeout` tells a process and then its group; what is cleaned up after the first is not cut short."""
    monkeypatch.setattr(ending, "TWICE", pause / 2 or ending.TWICE)
    done = []

    def work() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            time.sleep(pause)
            signal.raise_signal(signal.SIGTERM)
            done.append("all")

    with pytest.raises(Terminated), terminable():
        work()
    assert done == cleaned


@pytest.mark.parametrize("what", LIBRARIES)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_program_ends_as_asked(
    library: Callable[[str], None], tiny: Path, ldae, number: signal.Signals, code: int, what: str
) -> None:
    """The stage that a configuration names is being imported: one sentence, and the code of such an end."""
    library(LIBRARIES[what].format(signal=int(number)))
    tiny.write_text(tiny.read_text().replace("tiny_stage.TinyStage", f"{NAME}.TinyStage"))
    said = ldae("fit", "--config", tiny)
    assert (said.code, said.err) == (
        code,
        "ldae: Stopped. What was finished is kept, and the same command goes on from there.\n",
    )
