# SPDX-License-Identifier: Apache-2.0
"""Why a head says what it says of some scans: maps in the scans' own space, and how far they agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from ldae.data.artefact import atomic_path
from ldae.data.phantom_truth import KnownCohort, is_synthetic
from ldae.data.scan import DifferenceMap, Scan
from ldae.diffusion.samplers import DEFAULT_SOLVER, Solver
from ldae.evaluation.change import Change
from ldae.evaluation.explained_scan import (
    COUNTERFACTUAL,
    FAR,
    GRADIENTS,
    NO_MODEL,
    OCCLUSION,
    Explained,
    Explainer,
)
from ldae.evaluation.localisation import localisation_table, localise
from ldae.evaluation.material import Material, first_visits, open_scans
from ldae.evaluation.record import Findings, evaluate_once
from ldae.evaluation.truth import Regions, render_truth
from ldae.pipeline.derivatives import Derivative, ScanName, label

NAME = "explanation"
CODE, SLICES, LOCALISATION, EXAMPLE = "code.csv", "slices.csv", "localisation.csv", "example.npz"
WRITTEN = {
    GRADIENTS: (
        "Gradients",
        "What each place adds to the head's score beyond that of the mean training scan.",
    ),
    OCCLUSION: ("Occlusion", "How much the head's score falls when a box shows the mean training scan."),
    COUNTERFACTUAL: ("Counterfactual", "Counterfactual minus the reconstruction of the scan."),
}
KNOWN_TARGETS = ("diagnosis", "age")


def evaluate_explanation(
    pipeline: str | Path,
    cohort: str | Path,
    *,
    head: str | Path,
    out: str | Path,
    target_class: str | None = None,
    split: str = "test",
    steps: int = 20,
    decode_steps: int = 20,
    solver: Solver = DEFAULT_SOLVER,
    limit: int = 8,
    seed: int = 0,
    device: str = "auto",
    progress: bool = False,
    run_dir: str | Path | None = None,
) -> Path:
    """Explain what a head says of some scans, in four ways, and see how far they agree.

    The score is the log odds of a class, or the predicted number.

    - Voxels: integrated gradients and occlusion through encoder and head, against the mean training scan.
    - Slices: their attention, and Shapley values of their tokens against those of the mean training scan.
    - The code: Shapley values of its numbers against the training codes.
    - The head's own counterfactual, two standard deviations along its direction, towards the other side.

    Each map is written in the scan's own space. Where the cohort is synthetic and the head tells diagnosis or
    age, the maps are compared with the voxels that truly differ under the other diagnosis or age.

    Args:
        pipeline: Folder of the pipeline.
        cohort: The cohort's table.
        head: Folder of the fitted head, usually heads/diagnosis of the run.
        out: Folder of the results, such as evaluation/explanation of the run.
        target_class: Class that the score speaks of; may be left out for two classes and regression.
        split: Scans to explain.
        steps: Network calls from latent to noise, for the counterfactual.
        decode_steps: Network calls from noise to latent.
        solver: How the encoding steps are taken.
        limit: So many subjects at most, one scan each, the first visit.
        seed: Seed that draws the subjects and the orders of Shapley values.
        device: "auto" (a GPU where there is one), "cpu", "cuda:1" and so on.
        progress: Show a bar.
        run_dir: Folder of the run, for its cache of volumes; None takes the one that holds the pipeline.

    Returns:
        The folder, with table.csv (a row a map), scans.csv, localisation.csv, slices.csv, code.csv,
        result.json, example.npz, and the maps as a BIDS derivative.

    Raises:
        FileNotFoundError: There is no such head.
        CheckpointError: The head was fitted on another pipeline's codes.
        InputError: The head has depths or changes in jumps, the class is unknown, or captum or shap is not
            installed.
    """
    head = Path(head)
    material = Material.of(
        pipeline, cohort, out=out, run_dir=run_dir, split=split, device=device, progress=progress
    )
    known = KnownCohort.open(cohort) if is_synthetic(cohort) else None

    def compute() -> Findings:
        explainer = Explainer.open(open_scans(material), head=head, target_class=target_class)
        rows = first_visits(explainer.scans.rows, limit=limit, seed=seed)
        regions = _regions(explainer, known, rows=rows)
        derivative = Derivative(material.out, sources=list(rows["path"]))
        found = []
        for row in tqdm(rows.to_dict("records"), desc=NAME, disable=not progress):
            one = explainer.explain(
                row["path"], steps=steps, decode_steps=decode_steps, solver=solver, seed=seed
            )
            _write_maps(derivative, one, row, explainer=explainer)
            found.append(one)
        _write_example(material.out / EXAMPLE, found[0])
        return _findings(rows, found, regions=regions, explainer=explainer)

    settings = {
        "head": str(head),
        "target_class": target_class,
        "steps": steps,
        "decode_steps": decode_steps,
        "solver": solver,
        "limit": limit,
        "seed": seed,
    }
    return evaluate_once(
        material,
        name=NAME,
        settings=settings,
        compute=compute,
        inputs=[head, *([known.parameters] if known else [])],
        more=[LOCALISATION, SLICES, CODE],
    )


def _regions(explainer: Explainer, known: KnownCohort | None, *, rows: pd.DataFrame) -> Regions | None:
    """Where the scans would truly differ, if that is known."""
    column = explainer.fitted.provenance.get("target")
    if known is None or column not in KNOWN_TARGETS:
        return None
    known.check(rows.iloc[0].to_dict())
    change = Change.of(column, rows)
    truth = render_truth(explainer.scans, known, rows=rows, factors=change.factors(known))
    return Regions.between(explainer.scans.volumes(rows), truth.volumes)


def _write_maps(
    derivative: Derivative, found: Explained, row: Mapping[str, Any], *, explainer: Explainer
) -> None:
    """Gradients as a density, so that its integral is the score whatever the voxels."""
    scan = found.scan
    voxel_ml = abs(float(np.linalg.det(scan.affine[:3, :3]))) / 1000
    unit = "unit of the target" if explainer.target_class is None else f"log odds of {explainer.target_class}"
    plain = replace(scan, intensity=None)
    maps: dict[str, tuple[Scan | DifferenceMap, str]] = {
        GRADIENTS: (plain.like(found.maps[GRADIENTS] / voxel_ml), f"{unit} per ml"),
        OCCLUSION: (plain.like(found.maps[OCCLUSION]), unit),
        COUNTERFACTUAL: (DifferenceMap(found.maps[COUNTERFACTUAL], scan), "intensity of the scan"),
    }
    name = ScanName.of(row["path"], subject=row["subject"], session=row["session"])
    known = label(explainer.fitted.name, prefix="desc")
    for method, (voxels, units) in maps.items():
        word, description = WRITTEN[method]
        details = {
            "PipelineSha256": explainer.scans.pipeline.sha256,
            "Head": str(explainer.fitted.folder),
            "HeadSha256": explainer.fitted.sha256,
            "TargetClass": None if explainer.target_class is None else str(explainer.target_class),
            "Units": units,
            "Score": found.numbers["score"],
            "ScoreBaseline": found.numbers["score_baseline"],
            "ScoreCounterfactual": found.numbers["score_counterfactual"],
        }
        desc = f"explanation{known[0].upper()}{known[1:]}{word}"
        derivative.write(
            voxels, name, desc=desc, description=description, sources=[row["path"]], details=details
        )


def _write_example(path: Path, found: Explained) -> None:
    """One scan and its maps on the pipeline's grid, for a picture."""
    volumes = {"scan": found.scan.data, **{name: found.maps[name] for name in WRITTEN}}
    arrays: dict[str, Any] = {name: values[0].numpy().astype(np.float32) for name, values in volumes.items()}
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **arrays)


def _findings(
    rows: pd.DataFrame, found: Sequence[Explained], *, regions: Regions | None, explainer: Explainer
) -> Findings:
    visits = [(str(row.subject), str(row.session)) for row in rows.itertuples()]
    scans = pd.DataFrame(
        [
            {"subject": name, "session": visit, **one.numbers}
            for (name, visit), one in zip(visits, found, strict=True)
        ]
    )
    local, slices = _by_scan(visits, found, regions=regions), _slices(visits, found)
    table = localisation_table(local, names=[*WRITTEN, NO_MODEL])
    gap = scans["sum_gradients"] - (scans["score"] - scans["score_baseline"])
    values: dict[str, Any] = {"completeness_gap": float(gap.abs().max())}
    for row in table.to_dict("records"):
        key = row["map"].replace(" ", "_")
        for column in ("agreement", "auc", "concentration"):
            if column in row:
                values[f"{column}_{key}"] = row[column]
            if f"{column}_low" in row:
                values[f"{column}_{key}_ci"] = [row[f"{column}_low"], row[f"{column}_high"]]
    return Findings(
        values,
        table,
        scans,
        {"scans": len(rows), "subjects": int(rows["subject"].nunique())},
        _notes(explainer, regions=regions),
        {LOCALISATION: local, SLICES: slices, CODE: _code(found)},
    )


def _by_scan(
    visits: Sequence[tuple[str, str]], found: Sequence[Explained], *, regions: Regions | None
) -> pd.DataFrame:
    rows = []
    for place, ((subject, session), one) in enumerate(zip(visits, found, strict=True)):
        changed: NDArray[np.bool_] | None = None
        brain = one.scan.data[0].numpy() > 0
        if regions is not None:
            changed = regions.changed[place, 0].numpy()
            brain = changed | regions.rest[place, 0].numpy()
        maps = {name: values[0].numpy() for name, values in one.maps.items()}
        judged = localise(maps, brain=brain, reference=COUNTERFACTUAL, changed=changed)
        rows += [{"subject": subject, "session": session, **row} for row in judged]
    return pd.DataFrame(rows)


def _slices(visits: Sequence[tuple[str, str]], found: Sequence[Explained]) -> pd.DataFrame:
    parts = [
        one.slices.assign(subject=subject, session=session)
        for (subject, session), one in zip(visits, found, strict=True)
    ]
    return pd.concat(parts, ignore_index=True)[["subject", "session", "slice", "attention", "shapley"]]


def _code(found: Sequence[Explained]) -> pd.DataFrame:
    """The numbers of the code, those that matter most first."""
    values = np.stack([one.code for one in found])
    table = pd.DataFrame(
        {
            "number": range(values.shape[1]),
            "mean_size": np.abs(values).mean(axis=0),
            "mean": values.mean(axis=0),
        }
    )
    return table.sort_values("mean_size", ascending=False, ignore_index=True)


def _notes(explainer: Explainer, *, regions: Regions | None) -> list[str]:
    notes = [
        f"Counterfactuals lie {FAR:g} standard deviations off along the head's direction, to the other side.",
        "agreement: Spearman's correlation with the counterfactual difference over the brain, sign aside.",
    ]
    if regions is None:
        return [*notes, "Which voxels truly matter is not known for this cohort or head."]
    target = explainer.fitted.provenance["target"]
    return [
        *notes,
        f"auc and concentration: against the voxels that truly differ under another {target}; "
        "by chance 0.5 and 1.",
    ]
