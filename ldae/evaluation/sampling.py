# SPDX-License-Identifier: Apache-2.0
"""Whether drawn scans are like real ones, as various, and no copies; beside Gaussians and real scans."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from ldae.data.embeddings import check_embeddings, code_array, read_embeddings
from ldae.data.split import check_split
from ldae.data.target import DEFAULT_CLASSES
from ldae.diffusion.code_sampler import CodeSampler
from ldae.diffusion.samplers import DEFAULT_SOLVER, Solver, solver_levels
from ldae.errors import InputError
from ldae.evaluation.code_gaussian import draw_gaussian
from ldae.evaluation.drawn import Drawn, Reference, judge, judge_as_training, nearest_rows
from ldae.evaluation.material import Material, first_visits
from ldae.evaluation.record import Findings, evaluate_once
from ldae.evaluation.workers import side_by_side
from ldae.pipeline.networks import MOST_AT_ONCE
from ldae.pipeline.pipeline import LDAEPipeline
from ldae.pipeline.samples import draw_semantic, draw_stochastic, load_sampler

NAME = "sampling"
# What figures of a row are called in result.json, and the row itself.
METHODS = {
    "real": "real scans",
    "training": "training scans",
    "decoded": "real codes",
    "gaussian": "class Gaussian",
    "sampler": "code sampler",
    "sampler_any": "code sampler, no class",
}
OF_SCANS = ("real", "training")
CODE, SCAN = "code", "scan"

Codes = NDArray[np.float64]  # [N, D]
Classes = tuple[str | None, ...]


def evaluate_sampling(
    pipeline: str | Path,
    cohort: str | Path,
    *,
    out: str | Path,
    split: str = "test",
    decode_steps: int = 20,
    solver: Solver = DEFAULT_SOLVER,
    seed: int = 0,
    limit: int | None = None,
    embeddings: str | Path | None = None,
    device: str = "auto",
    progress: bool = False,
    run_dir: str | Path | None = None,
) -> Path:
    """Compare drawn scans with held-out ones in the code's space, beside real scans of another split.

    As many are drawn as there are real ones beside them, and of the same classes: one a subject of val (of
    test where `split` is val), as many as every split has. What can be reached at that number is what the
    real scans reach. Rows:

    - "real scans" of the other split;
    - "training scans", which is what a perfect sampler of the training codes would draw;
    - "real codes": the codes of these, decoded from fresh noise, which shows what the decoder costs;
    - "class Gaussian": codes from the Gaussian of the training codes of the class;
    - "code sampler": codes from the sampler, told the class; and "no class", where it is not.

    Codes are judged as drawn ("code"), and decoded and embedded again ("scan"), which judges the decoder too.
    KID, precision, recall and distances are of codes with unit variance per number over the training scans,
    FID of their first 32 principal components over these. "nearest" is the median distance to the nearest
    training scan; "close" the share that lies nearer than all but 5 % of held-out scans do: much more than
    0.05 are copies. The probe (AD against CN of a diagnosis) was fitted on the row, and is judged on every
    held-out scan.

    Args:
        pipeline: Folder of a pipeline with a code sampler.
        cohort: The cohort's table.
        out: Folder of the results, such as evaluation/sampling of the run.
        split: Held-out scans.
        decode_steps: Network calls from noise to scan.
        solver: How these are taken.
        seed: Seed of whatever is drawn.
        limit: Draw so many at most.
        embeddings: Table of codes; None takes embeddings.parquet of the run.
        device: "auto" (a GPU where there is one), "cpu", "cuda:1" and so on.
        progress: Show bars.
        run_dir: Folder of the run; None takes the one that holds the pipeline.

    Returns:
        The folder, with table.csv, scans.csv (every drawn scan with its nearest training scan), result.json.

    Raises:
        FileNotFoundError: Pipeline, sampler or embeddings are missing; the message says what makes them.
        CheckpointError: Sampler or embeddings belong to another pipeline.
        InputError: Too few scans in a split, or `decode_steps` out of range.
    """
    material = Material.of(
        pipeline, cohort, out=out, run_dir=run_dir, split=split, device=device, progress=progress
    )
    table = Path(embeddings or material.run_dir / "embeddings.parquet")

    def compute() -> Findings:
        loaded = LDAEPipeline.from_pretrained(material.pipeline, device=device)
        solver_levels(solver, schedule=loaded.networks.diffusion.schedule, steps=decode_steps)
        trial = _prepare(loaded, read_embeddings(table), split=split, limit=limit, seed=seed)
        drawn = []
        for name, (codes, classes) in trial.draw().items():
            features = trial.whiten(codes)
            drawn.append(Drawn(name, SCAN if name in OF_SCANS else CODE, features, classes))
            if name not in OF_SCANS:
                again = trial.whiten(
                    _embed_again(trial, codes, steps=decode_steps, solver=solver, progress=progress)
                )
                drawn.append(Drawn(name, SCAN, again, classes, kept=_kept(features, again)))
        return _findings(drawn, trial)

    settings = {
        "decode_steps": decode_steps,
        "solver": solver,
        "seed": seed,
        "limit": limit,
        "embeddings": str(table),
    }
    return evaluate_once(material, name=NAME, settings=settings, compute=compute, inputs=[table])


@dataclass(frozen=True)
class Trial:
    """What is drawn, and what it is compared with.

    Attributes:
        pipeline: The pipeline.
        sampler: Its code sampler.
        condition: Column of the classes that the sampler knows, or None.
        train: Rows of the training scans.
        beside: Rows of the real scans of another split, one a subject.
        seen: Rows of training scans, one a subject, as many.
        reference: Held-out scans, as many.
        seed: Seed of whatever is drawn.
    """

    pipeline: LDAEPipeline
    sampler: CodeSampler
    condition: str | None
    train: pd.DataFrame
    beside: pd.DataFrame
    seen: pd.DataFrame
    reference: Reference
    seed: int

    def whiten(self, codes: Codes) -> Codes:
        """Codes with zero mean and unit variance per number over the training scans."""
        return self.pipeline.statistics.whiten(codes)

    def classes(self, rows: pd.DataFrame) -> Classes:
        """Class of each scan as the sampler knows it, None where it does not."""
        if self.condition is None:
            return (None,) * len(rows)
        names = (str(value) for value in rows[self.condition])
        return tuple(name if name in self.sampler.classes else None for name in names)

    def draw(self) -> dict[str, tuple[Codes, Classes]]:
        """Codes, and the class that each was drawn from, by method."""
        wanted, seed = self.classes(self.beside), self.seed
        real, train = code_array(self.beside), code_array(self.train)
        anyone: Classes = (None,) * len(wanted)
        found = {
            "real": (real, wanted),
            "training": (code_array(self.seen), self.classes(self.seen)),
            "decoded": (real, wanted),
            "gaussian": (draw_gaussian(train, self.classes(self.train), wanted=wanted, seed=seed), wanted),
            "sampler": (self._sample(wanted), wanted),
        }
        return found if wanted == anyone else {**found, "sampler_any": (self._sample(anyone), anyone)}

    def _sample(self, wanted: Classes) -> Codes:
        return draw_semantic(self.sampler, wanted, seed=self.seed).double().numpy()


def _prepare(
    pipeline: LDAEPipeline, frame: pd.DataFrame, *, split: str, limit: int | None, seed: int
) -> Trial:
    check_embeddings(frame, pipeline=pipeline.sha256, folder=pipeline.folder)
    if split == "train":
        raise InputError("split must be held out from training, got train. Choose val, cal or test.")
    check_split(frame)
    sampler, component = load_sampler(pipeline)
    condition = component.config["condition"]
    names = (split, "test" if split == "val" else "val", "train")
    test, other, train = (frame[frame["split"] == name].reset_index(drop=True) for name in names)
    held, beside, seen = _as_many(test, other, train, limit=limit, seed=seed)
    whiten = pipeline.statistics.whiten
    reference = Reference(
        train=whiten(code_array(train)),
        train_rows=train,
        held=whiten(code_array(held)),
        test=whiten(code_array(test)),
        test_rows=test,
        condition=condition,
        classes=_told_apart(condition, known=sampler.classes),
        seed=seed,
    )
    return Trial(pipeline, sampler, condition, train, beside, seen, reference, seed)


def _as_many(*parts: pd.DataFrame, limit: int | None, seed: int) -> list[pd.DataFrame]:
    """First visits of as many subjects of each part as every part has, `limit` at most."""
    most = min(part["subject"].nunique() for part in parts)
    number = most if limit is None else min(limit, most)
    return [first_visits(part, limit=number, seed=seed).reset_index(drop=True) for part in parts]


def _told_apart(condition: str | None, *, known: tuple[str, ...]) -> tuple[str, ...]:
    """The classes that a probe tells apart."""
    wanted = DEFAULT_CLASSES.get(condition or "", known)
    return tuple(wanted) if set(wanted) <= set(known) else known


def _embed_again(trial: Trial, codes: Codes, *, steps: int, solver: Solver, progress: bool) -> Codes:
    """Semantic codes of the scans that these codes are decoded to, with fresh stochastic ones."""
    networks = trial.pipeline.networks
    noise = draw_stochastic(trial.pipeline, len(codes), seed=trial.seed)
    semantic = torch.tensor(codes, dtype=torch.float32)
    places = [slice(start, start + MOST_AT_ONCE) for start in range(0, len(codes), MOST_AT_ONCE)]

    def embed(part: slice) -> torch.Tensor:
        scans = trial.pipeline.decode_tensors(semantic[part], noise[part], steps=steps, solver=solver)
        return networks.describe(scans)

    found = side_by_side(embed, places, networks=networks, name="decode and embed", progress=progress)
    return torch.cat(found).double().numpy()


def _kept(before: Codes, after: Codes) -> float:
    """Share of the variance of features that decoding and embedding bring back, 1 if all."""
    return 1 - float(np.square(after - before).sum() / np.square(before - before.mean(0)).sum())


def _findings(drawn: list[Drawn], trial: Trial) -> Findings:
    reference = trial.reference
    judged = [(one, judge(one, reference)) for one in drawn]
    rows = [{"method": METHODS[one.method], "space": one.space, **_spread(found)} for one, found in judged]
    values: dict[str, Any] = {}
    for one, found in judged:
        prefix = f"{one.method}_code" if one.space == CODE else one.method
        values |= {f"{prefix}_{name}": value for name, value in found.items() if name != "n"}
    subjects = tuple(trial.train["subject"].astype(str))
    trained = judge_as_training(
        reference.train, trial.classes(trial.train), reference=reference, subjects=subjects
    )
    values |= {f"all_training_{name}": value for name, value in trained.items()}
    scans = pd.concat([nearest_rows(one, reference) for one in drawn], ignore_index=True)
    counts = {
        "scans": len(reference.test_rows),
        "subjects": int(reference.test_rows["subject"].nunique()),
        "drawn": len(trial.beside),
        "components": int(reference.components.n_components_),
        "training_scans": len(trial.train),
    }
    return Findings(
        values, pd.DataFrame(rows), scans, counts, notes=_notes(trial, probed="auc" in judged[0][1])
    )


def _spread(found: dict[str, Any]) -> dict[str, Any]:
    """A row of the table: an interval as two columns."""
    row: dict[str, Any] = {}
    for name, value in found.items():
        if name.endswith("_ci"):
            row |= {name.replace("_ci", "_low"): value[0], name.replace("_ci", "_high"): value[1]}
        else:
            row[name] = value
    return row


def _notes(trial: Trial, *, probed: bool) -> list[str]:
    number = len(trial.beside)
    notes = [f"Every figure but the AUC depends on the number of scans, {number}: compare rows, not papers."]
    if not probed:
        notes.append("No probe of these scans: it needs ten of each of two classes.")
    return notes
