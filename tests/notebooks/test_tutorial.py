# SPDX-License-Identifier: Apache-2.0
"""The tutorial: stored without outputs, and every cell runs on the tiny pipeline."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[2]
TUTORIAL = ROOT / "notebooks" / "tutorial.ipynb"
STEPS = ["preprocess", "compress", "reconstruct", "vary", "interpolate", "classify", "manipulate", "age"]


@pytest.fixture
def tutorial() -> NotebookNode:
    return nbformat.read(TUTORIAL, as_version=4)


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def execute(notebook: NotebookNode) -> NotebookNode:
    """Run it as Jupyter does, in its own folder and in a process of its own."""
    folder = {"metadata": {"path": str(TUTORIAL.parent)}}
    return NotebookClient(notebook, timeout=300, startup_timeout=300, resources=folder).execute()


def pictures(notebook: NotebookNode) -> list[str]:
    """Names of the cells that show a figure."""
    return [
        cell.id
        for cell in code_cells(notebook)
        if any("image/png" in output.get("data", {}) for output in cell.outputs)
    ]


def said(notebook: NotebookNode) -> str:
    """All that was printed or told, warnings included."""
    parts = [output for cell in code_cells(notebook) for output in cell.outputs]
    return "\n".join(part.get("text", part.get("data", {}).get("text/plain", "")) for part in parts)


def test_it_is_stored_without_outputs(tutorial: NotebookNode) -> None:
    nbformat.validate(tutorial)
    kept = [cell.id for cell in code_cells(tutorial) if cell.outputs or cell.execution_count is not None]
    assert not kept, f"clear all outputs of {TUTORIAL.name} before it is saved"
    assert all(not cell.metadata for cell in tutorial.cells)


def test_it_has_every_step_in_short_cells(tutorial: NotebookNode) -> None:
    prose = "\n".join(cell.source.lower() for cell in tutorial.cells if cell.cell_type == "markdown")
    headings = [line for line in prose.splitlines() if line.startswith("## ")]
    assert all(any(step in heading for heading in headings) for step in STEPS)
    assert max(len(cell.source.splitlines()) for cell in code_cells(tutorial)) <= 25


@pytest.mark.slow
def test_it_runs_on_a_pipeline_of_any_size(
    tutorial: NotebookNode, tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(tiny_run.rglob("*"))
    monkeypatch.setenv("LDAE_PIPELINE", str(tiny_run / "pipeline"))
    done = execute(tutorial)
    shown = pictures(done)
    assert all(any(name.startswith(step) for name in shown) for step in STEPS)
    assert "same grid as the file: True" in said(done)
    assert "Traceback" not in said(done)
    assert sorted(tiny_run.rglob("*")) == before


@pytest.mark.slow
def test_a_missing_pipeline_is_one_sentence(tutorial: NotebookNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LDAE_PIPELINE", "outputs/none/pipeline")
    with pytest.raises(CellExecutionError) as caught:
        execute(tutorial)
    assert caught.value.evalue == (
        f"LDAE_PIPELINE must name the folder of a pipeline, got {ROOT / 'outputs/none/pipeline'}, "
        "which does not exist. Run `make demo`, or name another."
    )
