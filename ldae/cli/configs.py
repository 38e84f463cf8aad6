# SPDX-License-Identifier: Apache-2.0
"""Configs by name, without the training stack: where they lie, what they say together, how two differ."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

import ldae
from ldae.errors import InputError

MOST_NODES = 100_000
DEFAULT_RUN_DIR = "outputs/run"
FREE_TABLES = ("arguments", "class_weights")
"""Keys whose table has names of its own and is one value to `fit`, which replaces it whole."""

# Keys that say where and how conveniently a stage is trained, not what comes out.
CIRCUMSTANCES = (
    "ckpt_path",
    "config",
    "data.init_args.num_workers",
    "data.init_args.run_dir",
    "model.init_args.autoencoder.checkpointing",
    "model.init_args.compiled",
    "model.init_args.encoder.backbone.arguments.checkpointing",
    "model.init_args.network.arguments.encoder.backbone.arguments.checkpointing",
    "model.init_args.run_dir",
    "overwrite",
    "run_dir",
    "trainer.accelerator",
    "trainer.barebones",
    "trainer.callbacks",
    "trainer.default_root_dir",
    "trainer.devices",
    "trainer.enable_checkpointing",
    "trainer.enable_model_summary",
    "trainer.enable_progress_bar",
    "trainer.fast_dev_run",
    "trainer.log_every_n_steps",
    "trainer.logger",
    "trainer.num_nodes",
    "trainer.plugins",
    "trainer.profiler",
    "trainer.strategy",
)


def config_folders() -> list[Path]:
    """Folders that hold configs, first the current directory's, then the checkout's or the package's."""
    package = Path(ldae.__file__).resolve().parent
    return [Path("configs"), package.parent / "configs", package / "configs"]


def available_configs() -> list[str]:
    """Names that `find_config` knows, such as "aekl.yaml" and "demo/aekl.yaml"."""
    found = {
        path.relative_to(folder).as_posix() for folder in config_folders() for path in folder.rglob("*.yaml")
    }
    return sorted(found, key=lambda name: (name.count("/"), name))


def find_config(name: str) -> Path:
    """The file of a config: as given, else by its name in one of the config folders.

    Raises:
        InputError: There is none; the message lists the names that exist.
    """
    for path in [Path(name), *(folder / name for folder in config_folders())]:
        if path.is_file():
            return path
    known = ", ".join(available_configs()) or "the files in configs/"
    raise InputError(f"--config must be a file or one of {known}, got {name}.")


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys of a YAML file.

    Raises:
        InputError: The file is not YAML, or not a table of keys.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        place = " ".join(str(error).split())
        raise InputError(f"{path} must be YAML, but reading it failed: {place}. Correct the file.") from error
    if sum(1 for _ in islice(_nodes(document), MOST_NODES)) == MOST_NODES:
        raise InputError(
            f"{path} must hold a configuration, got {MOST_NODES} values or more. Correct the file."
        )
    if not isinstance(document, dict):
        raise InputError(f"{path} must hold keys such as trainer, model and data, got {document!r}.")
    return document


def _nodes(document: Any) -> Iterator[Any]:
    """Every value, as often as it stands there: a few aliases of aliases make billions."""
    open_ = [document]
    while open_:
        value = open_.pop()
        yield value
        if isinstance(value, dict | list):
            open_.extend(value.values() if isinstance(value, dict) else value)


def merge(base: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """`overlay` laid over `base` as `fit` does: tables are merged key by key, anything else is replaced."""
    merged = dict(base)
    for key, value in overlay.items():
        below = merged.get(key)
        if isinstance(below, dict) and isinstance(value, dict) and key not in FREE_TABLES:
            merged[key] = merge(below, value)
        else:
            merged[key] = value
    return merged


def read_configs(paths: Sequence[Path]) -> dict[str, Any]:
    """All files in one, the later over the earlier."""
    document: dict[str, Any] = {}
    for path in paths:
        document = merge(document, read_yaml(path))
    return document


def flatten(document: Mapping[str, Any], *, prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted keys; lists and empty tables stay values."""
    flat: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, prefix=f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def essence(document: Mapping[str, Any]) -> dict[str, Any]:
    """The dotted keys that decide what is learned, without the circumstances."""
    return {key: value for key, value in flatten(document).items() if not _within(key, CIRCUMSTANCES)}


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """One phrase for every key whose value is another, such as "trainer.max_epochs 5 (was 3)".

    Keys of the trainer that only one side knows come from another version of Lightning and do not count.
    """
    return [
        f"{key} {_shown(new, key)} (was {_shown(old, key)})"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key) and not (key.startswith("trainer.") and (key in old) != (key in new))
    ]


def cohort_path(document: Mapping[str, Any], *, run_dir: Path) -> Path:
    """The cohort that a configuration names, else the one in the run folder."""
    given = flatten(document).get("data.init_args.cohort")
    return Path(given) if isinstance(given, str) and given else run_dir / "cohort" / "cohort.csv"


def _shown(values: Mapping[str, Any], key: str) -> str:
    return str(values[key]) if key in values else "unset"


def _within(key: str, prefixes: Iterable[str]) -> bool:
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes)
