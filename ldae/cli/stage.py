# SPDX-License-Identifier: Apache-2.0
"""LightningCLI over one flat configuration: a stage's module, its data and a trainer, in one run folder."""

from __future__ import annotations

import logging
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib import import_module
from pathlib import Path
from traceback import extract_tb
from typing import Any, Literal

import yaml
from jsonargparse import ArgumentError
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger

from ldae.cli.configs import DEFAULT_RUN_DIR, cohort_path
from ldae.cli.state import StageFolder
from ldae.configured import buildable
from ldae.errors import CheckpointError, InputError

PARSER_NOISE = (
    "Does not validate against",
    "Subtypes:",
    "Errors:",
    "NoneType",
    "Given value type:",
    "NestedArg",
)
HINTS_THAT_DO_NOT_APPLY = (
    ".*args parameter is intended to run.*",  # the words are given on purpose
    ".*does not have many workers.*",  # cached volumes need no loader processes
    ".*smaller than the logging interval.*",
    ".*in eval mode at the start of training.*",  # averaged weights and frozen networks are meant to be
    ".*treespec.*",
    ".*your dataloader is not resumable.*",  # its sampler is
)


class StageCLI(LightningCLI):
    """Parses at once and builds later: what lies in the run folder decides whether building is needed.

    Args:
        words: Configs and key overrides, such as ["--config=configs/aekl.yaml", "--trainer.max_epochs", "5"].
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.checkpoints: list[Checkpoint] = []
        _quiet()
        with _one_sentence():
            super().__init__(
                args=list(words),
                run=False,
                save_config_callback=None,
                seed_everything_default=0,
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,
                parser_kwargs={"exit_on_error": False, "allow_abbrev": False},
            )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Keys beside trainer, model and data."""
        parser.add_argument("--run_dir", type=str, default=DEFAULT_RUN_DIR, help="Folder of the run.")
        parser.add_argument(
            "--overwrite",
            type=bool | Literal["stale"],
            default=False,
            help="Train anew: true always, stale where configuration or inputs are not those trained on.",
        )
        parser.add_argument("--ckpt_path", type=str | None, default=None, help="Checkpoint to use.")
        for part in ("model", "data"):
            parser.link_arguments("run_dir", f"{part}.init_args.run_dir")

    def instantiate_classes(self) -> None:
        """Nothing yet, see `build`."""

    def build(self, *, checkpoints: Sequence[Checkpoint] = ()) -> None:
        """Make the data module, the module and the trainer.

        Raises:
            InputError, CheckpointError, FileNotFoundError: As the classes say, such as a missing stage.
        """
        self.checkpoints = list(checkpoints)
        with _own_errors():
            super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer of the configuration; what it leaves open is kept in the run folder."""
        given = self.config_init["trainer"]
        if given["logger"] is None or given["logger"] is True:
            kwargs["logger"] = CSVLogger(self.run_dir / "logs", name=self.stage.kind)
        if given["default_root_dir"] is None:
            kwargs["default_root_dir"] = self.run_dir / "logs"
        if given["enable_progress_bar"] is None:
            kwargs["enable_progress_bar"] = sys.stderr.isatty()
        if given["enable_model_summary"] is None:
            kwargs["enable_model_summary"] = False
        kwargs["callbacks"] = [*(given["callbacks"] or []), *self.checkpoints]
        try:
            trainer: Trainer = super().instantiate_trainer(**kwargs)
        except (ValueError, MisconfigurationException) as error:
            raise InputError(f"trainer must be what Lightning can do here: {error}") from error
        if trainer.world_size > 1 and isinstance(given["strategy"], str):
            raise InputError(
                f"trainer.strategy must say how {trainer.world_size} processes train together, got "
                f"{given['strategy']!r}. Add --config ddp.yaml, or give --trainer.devices 1."
            )
        return trainer

    @cached_property
    def resolved(self) -> dict[str, Any]:
        """Every key of the configuration with its value, as plain YAML types."""
        text = self.parser.dump(self.config, skip_link_targets=False, skip_unset=False, format="yaml")
        document: dict[str, Any] = yaml.safe_load(text)
        return document

    @property
    def run_dir(self) -> Path:
        """Folder of the run."""
        return Path(self.config["run_dir"])

    @property
    def cohort(self) -> Path:
        """Cohort that the stage is trained on."""
        return cohort_path(self.resolved, run_dir=self.run_dir)

    @cached_property
    def stage(self) -> StageFolder:
        """Where this stage keeps its training in the run folder."""
        package, _, name = self.config["model"]["class_path"].rpartition(".")
        module = getattr(import_module(package), name)
        if not hasattr(module, "kind"):
            raise InputError(
                f"model.class_path must be a stage such as ldae.stages.AutoencoderStage, got {name}."
            )
        # several networks of one kind lie side by side, each in a place of its own
        place = module.place(self.resolved) if hasattr(module, "place") else module.kind
        return StageFolder(run_dir=self.run_dir, kind=place)

    @property
    def fast_dev_run(self) -> bool:
        """Whether this is a trial of one batch that leaves nothing behind."""
        return bool(self.config["trainer"]["fast_dev_run"])


def _quiet() -> None:
    """Keep hints that do not apply from burying the ones that do."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in HINTS_THAT_DO_NOT_APPLY:
        warnings.filterwarnings("ignore", message)


@contextmanager
def _one_sentence() -> Iterator[None]:
    """Turn the parser's report, a tree of lines, into one sentence that keeps the key."""
    try:
        yield
    except ArgumentError as error:
        lines = [line.strip(" -") for line in str(error.message or error).splitlines()]
        text = " ".join(line for line in lines if not any(noise in line for noise in PARSER_NOISE))
        text = re.sub(r"Given value: [{(\[].*", "", text).strip()
        text = re.sub(r"<class '(\w+)'>", r"\1", text).replace("typing.Literal", "one of ")
        raise InputError(
            f"The configuration is wrong: {text.removesuffix('.')}. --print_config shows all keys."
        ) from error
    except ValueError as error:
        if "not in bounds" not in str(error):  # so Lightning says it of the seed, which it sets at once
            raise
        raise InputError(f"seed_everything must be a seed: {error}. Give another number.") from error


@contextmanager
def _own_errors() -> Iterator[None]:
    """Let errors for the user through, also those that the parser wrapped while it built the classes."""
    with buildable("model, data and trainer must be such that they can be built"):
        try:
            yield
        except ValueError as error:
            causes: list[BaseException] = [error]
            while (cause := causes[-1].__cause__) is not None and cause not in causes:
                causes.append(cause)
            for cause in causes:
                if isinstance(cause, InputError | CheckpointError | FileNotFoundError):
                    raise cause from None
            raise next((cause for cause in causes if not _of_parser(cause)), error) from None


def _of_parser(error: BaseException) -> bool:
    """Whether the parser itself raised it, such as the list of all that it tried."""
    frames = extract_tb(error.__traceback__)
    return bool(frames) and "jsonargparse" in Path(frames[-1].filename).parts
