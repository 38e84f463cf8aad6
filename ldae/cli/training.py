# SPDX-License-Identifier: Apache-2.0
"""What `fit`, `validate` and `test` do with a stage: begin, go on, refuse, export, assemble."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException

from ldae.cli.checkpoint import EpochCheckpoint, check_checkpoint
from ldae.cli.configs import essence, flatten
from ldae.cli.processes import ending_together, is_first
from ldae.cli.scans import show_progress
from ldae.cli.stage import StageCLI
from ldae.cli.state import (
    StageState,
    gather_inputs,
    is_complete,
    mismatch,
    output_hashes,
    parents,
)
from ldae.data.artefact import CONFIG_NAME, NETWORKS, atomic_path, read_json, whole
from ldae.data.lock import held
from ldae.data.spec import PreprocessingSpec
from ldae.errors import CheckpointError, InputError

OTHER_WEIGHTS = "Error(s) in loading state_dict"
NO_COMPILER = "InvalidCxxCompiler"
# What may differ between a training and the judgement of its stage.
JUDGED_FREELY = ("trainer.", "data.init_args.batch_size", "data.init_args.cohort")
LEAST = {
    "trainer.accumulate_grad_batches": 1,
    "trainer.gradient_clip_val": 0,
    "trainer.check_val_every_n_epoch": 1,
    "trainer.log_every_n_steps": 0,
    "data.init_args.batch_size": 1,
    "data.init_args.num_workers": 0,
}
# With Lightning's short names; in all of them weights, their averages and the optimiser's stay in float32.
PRECISIONS = ("32-true", "32", "bf16-mixed", "bf16", "16-mixed", "16")


def fit_stage(words: Sequence[str], *, request: str, started: float) -> None:
    """Train a stage to its end, from its last checkpoint where there is one, and write its component.

    Args:
        words: Configs and key overrides.
        request: Hash of these words, kept so that the same ones are answered at once.
        started: When the command began, by `time.perf_counter`.

    Raises:
        InputError: The run folder holds this stage trained with another configuration or other inputs, or
            another process trains it there; or the loss is not finite.
        CheckpointError: The checkpoint to go on from is damaged or another network's.
        Interrupted: The user stopped it, and the checkpoint is saved.
        Terminated: The same, by SIGTERM.
    """
    # A code that nothing uses has gradients so small (denormal numbers) that a CPU takes a hundred times as
    # long for them. Threads inherit this when they are made, so it comes before any work.
    torch.set_flush_denormal(True)
    cli = StageCLI(words)
    _check(cli)
    if cli.fast_dev_run:
        cli.build()
        with _possible(None, training=True), ending_together(cli.trainer):
            cli.trainer.fit(cli.model, datamodule=cli.datamodule)
        return
    with held(cli.run_dir, part=cli.stage.kind):
        state, fresh = _begin(cli, request=request)
        if not fresh and is_complete(cli.run_dir, state):
            if is_first():
                # asked for in other words, but the same: answer faster next time
                cli.stage.write(state)
                print(f"{cli.stage.artefact.parent} is up to date.")
            return
        _train(cli, state=state, fresh=fresh, started=started)


def evaluate_stage(words: Sequence[str], *, verb: str) -> None:
    """Run a stage's validation or test loop on its last checkpoint.

    Raises:
        InputError: The stage has not been trained in this run folder, or with another configuration, cohort
            or split: figures of scans that it learned from would look like those of others.
    """
    cli = StageCLI(words)
    _check(cli)
    checkpoint = Path(cli.config["ckpt_path"] or cli.stage.checkpoint)
    if not checkpoint.is_file() and not cli.fast_dev_run:
        raise InputError(
            f"{verb} must find a checkpoint, got none at {checkpoint}. Run first: ldae fit with this config."
        )
    if not cli.config["ckpt_path"] and not cli.fast_dev_run:
        config = essence(cli.resolved)
        inputs = gather_inputs(cli.run_dir, cohort=cli.cohort, kind=cli.stage.kind, config=config)
        way_out = f"Give {verb} what fit was given."
        if obstacle := mismatch(cli.stage, config=config, inputs=inputs, free=JUDGED_FREELY, way_out=way_out):
            raise InputError(obstacle)
    cli.build()
    loop = cli.trainer.validate if verb == "validate" else cli.trainer.test
    path = str(checkpoint) if checkpoint.is_file() else None
    with _possible(path, training=False), ending_together(cli.trainer):
        loop(cli.model, datamodule=cli.datamodule, ckpt_path=path, weights_only=True)


def _check(cli: StageCLI) -> None:
    """Stop on numbers that nothing can be trained with, and on what no stage can learn from."""
    given = flatten(cli.resolved)
    for key, least in LEAST.items():
        if isinstance(given.get(key), int | float) and not given[key] >= least:
            raise InputError(f"{key} must be {least} or more, got {given[key]}. Give --{key} another number.")
    precision = given.get("trainer.precision")
    if precision is not None and str(precision) not in PRECISIONS:
        raise InputError(
            "trainer.precision must be 32-true, bf16-mixed or 16-mixed, where weights stay in float32 and "
            f"small steps are not lost, got {precision}. Give --trainer.precision another."
        )
    identity = given.get("model.init_args.autoencoder.identity")
    if given["trainer.max_epochs"] == 0 and not identity:
        raise InputError("trainer.max_epochs must be 1 or more, got 0. Give --trainer.max_epochs a number.")
    for path in parents(cli.run_dir, kind=cli.stage.kind).values():
        if path.name == CONFIG_NAME and path.is_file():
            document = read_json(path)
            with whole(path):
                PreprocessingSpec.from_dict(dict(document["spec"]))


def _begin(cli: StageCLI, *, request: str) -> tuple[StageState, bool]:
    """The stage's record, and whether it is a new one, after the check that it may go on as asked."""
    config = essence(cli.resolved)
    inputs = gather_inputs(cli.run_dir, cohort=cli.cohort, kind=cli.stage.kind, config=config)
    new = StageState(config=config, inputs=inputs, request=request)
    overwrite = cli.config["overwrite"]
    obstacle = None if overwrite is True else mismatch(cli.stage, config=config, inputs=inputs)
    if overwrite is True or (overwrite == "stale" and obstacle):
        return new, True
    if obstacle:
        raise InputError(obstacle)
    state = cli.stage.read()
    return (new, True) if state is None else (replace(state, request=request), False)


def _train(cli: StageCLI, *, state: StageState, fresh: bool, started: float) -> None:
    stage = cli.stage

    def record(seconds: float) -> None:
        state.seconds = seconds
        with atomic_path(stage.config) as config:
            config.write_text(yaml.safe_dump(cli.resolved, sort_keys=False), encoding="utf-8")
            stage.write(state, alone=not checkpoint.kept)

    checkpoint = EpochCheckpoint(
        stage.checkpoint,
        started=started,
        earlier=state.seconds,
        saving=record,
        kept=not fresh and stage.checkpoint.is_file(),
        command=f"The same command{' without --overwrite' if cli.config['overwrite'] is True else ''}",
    )
    cli.build(checkpoints=[] if cli.config["trainer"]["enable_checkpointing"] is False else [checkpoint])
    last = cli.config["ckpt_path"]
    if last is None and not fresh:
        last = str(stage.checkpoint) if checkpoint.kept else None
        if is_first():
            print(
                f"Going on from {last}" if last else f"{stage.checkpoint} is missing: training begins anew."
            )
    try:
        with _possible(last, training=True), ending_together(cli.trainer):
            cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=last, weights_only=True)
    except RuntimeError as error:
        # loader processes get the signal of a whole process group too, and no step goes without them
        if not checkpoint.terminated:
            raise
        raise checkpoint.ended(cli.trainer) from error
    if cli.trainer.is_global_zero:
        _finish(cli, state=state)
        record(checkpoint.seconds)


@contextmanager
def _possible(checkpoint: str | None, *, training: bool) -> Iterator[None]:
    """Settings that do not go together, and a checkpoint that does not fit, are the user's to correct."""
    if checkpoint is not None:
        check_checkpoint(Path(checkpoint), training=training)
    try:
        yield
    except MisconfigurationException as error:
        raise InputError(str(error)) from error
    except RuntimeError as error:
        if NO_COMPILER in str(error):
            raise InputError(
                "model.init_args.compiled must be false without a C++ compiler, got true. Install g++."
            ) from error
        if not str(error).startswith(OTHER_WEIGHTS):
            raise
        raise CheckpointError(
            f"{checkpoint} must hold weights of this configuration: {' '.join(str(error).split())} Name the "
            "checkpoint of this configuration, or train anew with --overwrite true."
        ) from error
    except SystemExit as stop:
        # Lightning ends the process when it is interrupted before the first step
        if isinstance(stop.__context__, KeyboardInterrupt):
            raise stop.__context__ from None
        raise


def _finish(cli: StageCLI, *, state: StageState) -> None:
    """Write the component; then the pipeline, a code sampler into it, or what a supervised network says."""
    stage = cli.stage
    cli.model.export(stage.artefact.parent)
    written, copied = [stage.artefact], []
    if stage.kind == "representation":
        from ldae.pipeline.assemble import assemble_pipeline

        folder = assemble_pipeline(cli.run_dir, cohort=cli.cohort, progress=show_progress())
        # not the index, to which a code sampler is added later
        written.append(folder / "statistics" / CONFIG_NAME)
        copied = [folder / kind / CONFIG_NAME for kind in NETWORKS]
    elif stage.kind == "code_sampler":
        from ldae.pipeline.assemble import add_code_sampler

        folder = add_code_sampler(cli.run_dir, cli.run_dir / "pipeline")
        written.append(folder / "code_sampler" / "config.json")
    elif cli.model.kind == "supervised":
        from ldae.evaluation.supervised import judge_supervised

        device = str(cli.trainer.strategy.root_device)
        written += judge_supervised(
            stage.artefact.parent,
            run_dir=cli.run_dir,
            cohort=cli.cohort,
            device=device,
            progress=show_progress(),
        )
    state.outputs = output_hashes(cli.run_dir, [*written, *copied])
    print(f"Wrote {' and '.join(dict.fromkeys(str(path.parent) for path in written))}")
