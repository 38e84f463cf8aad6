# SPDX-License-Identifier: Apache-2.0
"""The words after `fit`, `validate` and `test`, understood as far as it goes without the training stack."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from ldae.cli.configs import DEFAULT_RUN_DIR, cohort_path, find_config, flatten, read_configs
from ldae.data.artefact import sha256_json
from ldae.errors import InputError

SPECIAL = ("--print_config", "--help", "--trainer.fast_dev_run", "--ckpt_path", "--trainer=")


def add_request_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options that the three verbs share."""
    parser.add_argument(
        "-c",
        "--config",
        action="append",
        default=[],
        metavar="NAME.yaml",
        help="as given, else looked for in configs/; a second one overlays the first",
    )
    parser.add_argument(
        "--run_dir", "--run-dir", metavar="DIR", help="folder of the run (default: as configured)"
    )


@dataclass(frozen=True)
class Request:
    """Configs and key overrides.

    Attributes:
        configs: Files, the later over the earlier.
        overrides: Words such as "--trainer.max_epochs", "5".
        given_run_dir: What --run_dir says, if anything.
    """

    configs: tuple[Path, ...]
    overrides: tuple[str, ...]
    given_run_dir: str | None

    @classmethod
    def from_arguments(cls, args: argparse.Namespace) -> Request:
        """What a verb was told.

        Raises:
            InputError: No config is given, one does not exist, or a word belongs to no option.
        """
        loose = [word for index, word in enumerate(args.rest) if _is_loose(args.rest, index)]
        if loose:
            raise InputError(f"Every key must be given as --KEY VALUE, got {loose[0]!r} by itself.")
        if not args.config and not args.rest:
            raise InputError("--config must be given, got none. Begin with: ldae fit --config aekl.yaml")
        return cls(tuple(map(find_config, args.config)), tuple(args.rest), args.run_dir)

    @property
    def words(self) -> list[str]:
        """The same for LightningCLI: configs first, so that overrides always win."""
        run_dir = [] if self.given_run_dir is None else [f"--run_dir={self.given_run_dir}"]
        return [*(f"--config={path}" for path in self.configs), *run_dir, *self.overrides]

    @cached_property
    def document(self) -> dict[str, Any]:
        """The configs laid over each other."""
        return read_configs(self.configs)

    @property
    def run_dir(self) -> Path:
        """Folder of the run."""
        configured = self.document.get("run_dir")
        return Path(self.given_run_dir or (configured if isinstance(configured, str) else DEFAULT_RUN_DIR))

    @property
    def cohort(self) -> Path:
        """Cohort of the stage."""
        return Path(
            self._override("--data.init_args.cohort") or cohort_path(self.document, run_dir=self.run_dir)
        )

    @property
    def is_special(self) -> bool:
        """Whether this asks for something else than a plain training."""
        fast = flatten(self.document).get("trainer.fast_dev_run")
        return bool(fast) or any(word.startswith(SPECIAL) for word in self.overrides)

    @property
    def sha256(self) -> str:
        """Hash of what is asked for; the place of the run does not count."""
        document = {key: value for key, value in self.document.items() if key != "run_dir"}
        # YAML knows dates and the like, JSON does not
        return sha256_json([yaml.safe_dump(document, sort_keys=True), list(self.overrides)])

    def _override(self, key: str) -> str | None:
        """The value that the overrides give a key, the last one if there are several."""
        value = None
        for word, following in pairwise([*self.overrides, ""]):
            if word == key:
                value = following
            elif word.startswith(f"{key}="):
                value = word.partition("=")[2]
        return value


def _is_loose(words: list[str], index: int) -> bool:
    """Whether a word is neither an option nor the value of the one before it."""
    if words[index].startswith("--"):
        return False
    before = words[index - 1] if index else ""
    return not before.startswith("--") or "=" in before
