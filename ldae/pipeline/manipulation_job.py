# SPDX-License-Identifier: Apache-2.0
"""What `ldae manipulate` does: scans, a head and targets in; counterfactuals and difference maps out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from ldae.errors import InputError
from ldae.heads.directions import Head, check_target
from ldae.pipeline.code import Code
from ldae.pipeline.derivatives import label, number_label
from ldae.pipeline.head_folder import FittedHead
from ldae.pipeline.manipulation import Manipulation, Move, make_direction, resolve_head, resolve_held
from ldae.pipeline.pipeline import LDAEPipeline
from ldae.pipeline.scan_jobs import InputScan, JobResult, Sampling, ScanJob

COUNTERFACTUAL = "The scan's semantic code, moved until a fitted head says the target."
DIFFERENCE = "Counterfactual minus the reconstruction of the scan by the same solver and steps."


def manipulate_scans(
    pipeline: LDAEPipeline,
    scans: Sequence[InputScan],
    *,
    out: str | Path,
    head: str | Path,
    targets: Sequence[float],
    target_class: str | None = None,
    hold: Sequence[str | Path] = (),
    embeddings: str | Path | pd.DataFrame | None = None,
    sampling: Sampling | None = None,
    progress: bool = False,
) -> JobResult:
    """Render each scan, had the head said each target; all targets are sought before the first is rendered.

    A target writes desc-counterfactual<Head><Class><target>, with Hold<Name> where something is held, and the
    same with Difference.

    Args:
        pipeline: The pipeline.
        scans: What `gather_scans` found.
        out: Root of the derivative.
        head: Folder of the fitted head.
        targets: Wanted probabilities, or predictions of a regression head.
        target_class: Class that a probability speaks of; may be left out for two classes.
        hold: Folders of heads, or columns of numbers in the embeddings table, that are to stay.
        embeddings: That table; None takes the one that the head was fitted on.
        sampling: How codes are found and rendered.
        progress: Show a bar.

    Raises:
        FileNotFoundError: No such head folder or table.
        CheckpointError: A head or the table is another pipeline's.
        InputError: A target is out of a scan's reach, is given twice, or nothing is left beside what is held.
    """
    std = pipeline.statistics.std
    fitted = resolve_head(Path(head), std=std, pipeline=pipeline.sha256)
    chosen = class_named(fitted.head, target_class)
    _check_targets(targets, fitted.head, target_class=chosen)
    held = resolve_held(hold, head=fitted, std=std, embeddings=embeddings)
    make_direction(fitted, statistics=pipeline.statistics, target_class=chosen, hold=held)
    job = ScanJob(pipeline, out, scans=scans, sampling=sampling or Sampling(), progress=progress)
    planned = [
        (scan, code, _plan(pipeline, scan, code, fitted=fitted, targets=targets, of=chosen, held=held))
        for scan, code in job.codes()
    ]
    for scan, code, moves in tqdm(planned, desc="counterfactuals", disable=not progress):
        for made in pipeline.render_moves(code, moves, steps=job.sampling.down):
            _write(job, scan, made, fitted=fitted, held=held)
    return job.finish("manipulate")


def class_named(head: Head, name: str | None) -> Any:
    """The class that a word means: labels may be numbers, words of a command line never are."""
    labels = getattr(head, "classes_", None)
    if name is None or labels is None:
        return name
    return next((one for one in labels.tolist() if str(one) == name), name)


def _check_targets(targets: Sequence[float], head: Head, *, target_class: Any) -> None:
    if not targets:
        raise InputError("At least one target must be given, got none.")
    names = [number_label(target) for target in targets]
    if len(set(names)) < len(names):
        raise InputError(
            f"Targets must differ in their first six digits, which name the results, got {list(targets)}."
        )
    for target in targets:
        check_target(head, target, target_class=target_class)


def _plan(
    pipeline: LDAEPipeline,
    scan: InputScan,
    code: Code,
    *,
    fitted: FittedHead,
    targets: Sequence[float],
    of: Any,
    held: Sequence[FittedHead],
) -> list[Move]:
    try:
        return pipeline.move(code, fitted, targets=targets, target_class=of, hold=held)
    except InputError as error:
        raise InputError(f"{scan.path}: {error}") from error


def _write(
    job: ScanJob, scan: InputScan, made: Manipulation, *, fitted: FittedHead, held: Sequence[FittedHead]
) -> None:
    desc, details = _desc(made.move, fitted=fitted, held=held), _details(made.move, fitted=fitted, held=held)
    difference = job.write_map(
        scan, made.difference, desc=f"{desc}Difference", description=DIFFERENCE, details=details
    )
    details["Difference"] = difference
    job.write(scan, made.scan, desc=desc, description=COUNTERFACTUAL, details=details)


def _desc(move: Move, *, fitted: FittedHead, held: Sequence[FittedHead]) -> str:
    """What tells this counterfactual from others of the scan: head, class, target and what is held."""
    of = "" if move.target_class is None else _capital(str(move.target_class))
    stays = "".join(f"Hold{_capital(one.name)}" for one in held)
    return f"counterfactual{_capital(fitted.name)}{of}{number_label(move.target)}{stays}"


def _capital(text: str) -> str:
    plain = label(text, prefix="desc")
    return plain[0].upper() + plain[1:]


def _details(move: Move, *, fitted: FittedHead, held: Sequence[FittedHead]) -> dict[str, Any]:
    return {
        **_origin(fitted),
        "Target": move.target,
        "TargetClass": None if move.target_class is None else str(move.target_class),
        "Step": move.step,
        "HeadBefore": move.start,
        "HeadAfter": move.achieved,
        "Hold": [
            {**_origin(one), "Name": said.name, "Before": said.before, "After": said.after}
            for one, said in zip(held, move.held, strict=True)
        ],
        "DirectionKept": move.kept,
        "CodeDistance": move.distance,
        "CodeDistanceTraining": list(move.training_range),
        "DirectionPosition": move.position,
        "SupportedByTraining": move.novelty.inside,
        "Verdict": move.novelty.verdict,
    }


def _origin(head: FittedHead) -> dict[str, Any]:
    """Where a head lies; a column of numbers has no folder."""
    if head.folder is None:
        return {"Column": head.name}
    return {"Head": str(head.folder.absolute()), "HeadSha256": head.sha256}
