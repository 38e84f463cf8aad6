# SPDX-License-Identifier: Apache-2.0
"""`ldae doctor --memory`: what training takes at a configuration's size, and what fits which card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldae.cli.configs import find_config, flatten, merge, read_configs
from ldae.configured import buildable
from ldae.data.artefact import write_json
from ldae.errors import InputError

if TYPE_CHECKING:
    from ldae.evaluation.memory import Need

STAGES = {
    "autoencoder": "AutoencoderStage",
    "denoiser": "DenoiserStage",
    "representation": "RepresentationStage",
}
SWITCHES = {
    "autoencoder": "model.init_args.autoencoder.checkpointing true",
    "representation": "model.init_args.encoder.backbone.arguments.checkpointing true",
}
ACCUMULATION = {
    "autoencoder": "model.init_args.accumulate",
    "denoiser": "trainer.accumulate_grad_batches",
    "representation": "trainer.accumulate_grad_batches",
}
CONFIGS = ("aekl.yaml", "ldae_pretrain.yaml", "ldae_repr_learn.yaml")
CARDS = (16, 24, 48, 80)
BATCHES = (1, 2, 4, 8, 16, 32)
ROOM = 0.1
"""Share of a card that is left free: it has less than its name says, its memory falls into pieces, and on a
processor the estimate lacked 0.5 to 2.4 GiB (benchmarks/README.md)."""
HALF = ("16", "bf16")
"""How the names of Lightning's precisions begin that compute in half precision."""
GIB = 2**30
NOTE = f"""\
An estimate, not measured on a GPU: weights, average, optimiser, activations and
gradients, and 10 % and 1 GB for the rest; stage 1 without its perceptual network.
The batch is the largest of the table's that leaves {100 * ROOM:.0f} % of the card free."""


def tell_memory(names: Sequence[str], *, out: Path | None) -> None:
    """Print the tables of the stages' configurations, and write them as JSON where asked.

    Raises:
        InputError: A stage's configuration is missing, or two are of one stage.
    """
    from ldae.evaluation.memory import autoencoder_config, has_switch, needs_by_batch

    documents = _documents(names or CONFIGS)
    models = {kind: document["model"]["init_args"] for kind, document in documents.items()}
    needs: list[Need] = []
    with buildable("data.init_args.size of the autoencoder stage must be the volume's three sizes"):
        size = tuple(documents["autoencoder"]["data"]["init_args"]["size"])
    told = {
        stage: f"{stage}: more by accumulation, --{key} N"
        + (f"; checkpointing by\n  --{SWITCHES[stage]}" if stage in SWITCHES else "")
        for stage, key in ACCUMULATION.items()
    }
    for stage in STAGES:
        half = str(flatten(documents[stage]).get("trainer.precision", "32-true")).startswith(HALF)
        with buildable(f"Networks of the {stage} stage must be such that they can be built"):
            if stage == "autoencoder" and autoencoder_config(models).identity:
                told[stage] = f"{stage}: nothing to train, since latents are the voxels"
                continue
            switchable = has_switch(stage, models)
            if stage in SWITCHES and not switchable:
                told[stage] = (
                    f"{stage}: more by accumulation, --{ACCUMULATION[stage]} N; no checkpointing,\n"
                    "  since its backbone cannot recompute activations"
                )
            for switched in (False, True) if switchable else (False,):
                needs += needs_by_batch(
                    stage, models, size=size, batches=BATCHES, switched=switched, half=half
                )
    stages = dict.fromkeys(need.stage for need in needs)
    advice = [_advice(needs, stage=stage, card=card) for stage in stages for card in CARDS]
    _print(needs, advice, size=size)
    print(*told.values(), NOTE, sep="\n")
    if out is not None:
        rows = [{**asdict(need), "device_gib": round(need.on_device / GIB, 2)} for need in needs]
        write_json(out / "memory.json", {"size": list(size), "needs": rows, "advice": advice})
        print(f"Wrote {out / 'memory.json'}")


def _documents(names: Sequence[str]) -> dict[str, Any]:
    """Each stage's configuration; a file that names no stage is laid over the one before it."""
    kinds = {path: kind for kind, path in STAGES.items()}
    documents: dict[str, Any] = {}
    kind = ""
    for name in names:
        document = read_configs([find_config(name)])
        path = str(flatten(document).get("model.class_path", "")).rpartition(".")[2]
        if not path and kind:
            documents[kind] = merge(documents[kind], document)
            continue
        if path in kinds and kinds[path] in documents:
            raise InputError(
                f"--config must name one configuration of each stage, got {name} beside another."
            )
        if path not in kinds:
            raise InputError(
                f"--config must name one configuration of each of {', '.join(kinds)}, each with its overlays "
                f"behind it, got {name} of {path or 'no stage'}."
            )
        kind = kinds[path]
        documents[kind] = document
    missing = [kind for kind in STAGES if kind not in documents]
    if missing:
        raise InputError(f"--config must also name a configuration of {', '.join(missing)}, got none.")
    if bare := [kind for kind, document in documents.items() if not _has_arguments(document)]:
        raise InputError(f"The configuration of {', '.join(bare)} must hold model.init_args, got none.")
    return documents


def _has_arguments(document: Mapping[str, Any]) -> bool:
    model = document["model"]
    return isinstance(model, dict) and isinstance(model.get("init_args"), dict)


def _advice(needs: Sequence[Need], *, stage: str, card: int) -> dict[str, Any]:
    """The largest batch of a stage on a card, and with what; without the switch where that is as good.

    `more` says whether another scan fits beside the largest batch that is walked through, by what each takes
    between the last two.
    """
    found: dict[str, Any] = {"stage": stage, "card_gib": card, "batch": None, "switch": None, "more": False}
    limit = (1 - ROOM) * card * GIB
    for switched in (False, True):
        rows = [need for need in needs if need.stage == stage and need.switched == switched]
        fitting = [need.batch for need in rows if need.on_device <= limit]
        if fitting and (found["batch"] is None or max(fitting) > found["batch"]):
            before, last = rows[-2:]
            slope = (last.on_device - before.on_device) / (last.batch - before.batch)
            found |= {
                "batch": max(fitting),
                "switch": SWITCHES[stage] if switched else None,
                "more": last.on_device + slope <= limit,
            }
    return found


def _print(needs: Sequence[Need], advice: Sequence[dict[str, Any]], *, size: Sequence[int]) -> None:
    from rich.console import Console
    from rich.table import Table

    title = f"GiB on the card for a training step of scans of {'x'.join(map(str, size))}, by batch"
    table = Table("stage", "trained", "frozen", *map(str, BATCHES), title=title)
    rows = {(need.stage, need.switched): need for need in needs}
    for (stage, switched), need in rows.items():
        values = [
            _gib(other.on_device / GIB)
            for other in needs
            if (other.stage, other.switched) == (stage, switched)
        ]
        name = "  checkpointing" if switched else stage
        table.add_row(name, f"{need.trained / 1e6:.0f} M", f"{need.frozen / 1e6:.0f} M", *values)
    # 80 columns at published size; a narrower terminal breaks lines, where rich would cut words
    Console(width=200).print(table)
    for row in advice:
        largest = f"batch {row['batch']}{' or more' if row['more'] else ''}"
        with_switch = " with checkpointing" if row["switch"] else ""
        said = "does not fit" if row["batch"] is None else f"{largest}{with_switch}"
        print(f"{row['card_gib']} GB, {row['stage']}: {said}")


def _gib(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"
