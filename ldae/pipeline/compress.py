# SPDX-License-Identifier: Apache-2.0
"""The latent store: every scan through the autoencoder, once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ldae.data.ahead import read_ahead
from ldae.data.artefact import clear_partials, component_sha256
from ldae.data.latents import LatentStore
from ldae.data.shard import Shard
from ldae.errors import CheckpointError
from ldae.nets.autoencoder import Autoencoder
from ldae.nets.blocks import to_channels_last
from ldae.pipeline.folder import component_folder
from ldae.pipeline.networks import choose_device, volume_batch
from ldae.pipeline.run_cohort import RunCohort, open_run_cohort, read_volumes
from ldae.stages.components import load_autoencoder

logger = logging.getLogger(__name__)


def compress_cohort(
    run_dir: str | Path,
    *,
    cohort: str | Path | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    overwrite: bool = False,
    shard: Shard | None = None,
    progress: bool = False,
) -> Path:
    """Store posterior mean and sigma of every scan, and the statistics of the training scans.

    What is there already and still valid stays; an interrupted run goes on where it was.

    Args:
        run_dir: Folder of the run, with `autoencoder/`.
        cohort: Cohort CSV or BIDS folder; None takes cohort/cohort.csv of the run.
        batch_size: Scans at a time; None takes a number that fits.
        device: "auto" (a GPU where there is one), "cpu", "cuda:1" and so on.
        overwrite: Make all of them anew.
        shard: Compress only this part of the scans; a run without it afterwards adds what others left out,
            index and statistics.
        progress: Show a bar.

    Returns:
        Folder of the store.

    Raises:
        FileNotFoundError: Autoencoder or cohort are missing.
        InputError: The cohort has faults.
        CheckpointError: The autoencoder was trained on another split, or is damaged.
    """
    run_dir = Path(run_dir)
    folder = component_folder(run_dir, "autoencoder")
    run = open_run_cohort(run_dir, cohort=cohort, trained=folder, shard=shard, progress=progress)
    spec = run.cache.spec
    store = LatentStore(run_dir / "latents", autoencoder=component_sha256(folder), spec=spec.sha256)
    keys = list(run.frame["key"])
    missing = keys if overwrite else store.missing(keys)
    logger.info("Latents of %d of %d scans are made in %s", len(missing), len(keys), store.folder)
    if missing:
        clear_partials(store.folder)  # of other parts: they have no lock
        place = choose_device(device)
        autoencoder = load_autoencoder(folder)[0].to(place)
        to_channels_last(autoencoder)
        size = batch_size or volume_batch(spec.size)
        encode = _encoder(autoencoder, device=place)
        _fill(store, run, missing=set(missing), encode=encode, batch_size=size, progress=progress)
    if shard is None:
        _finish(store, run, changed=bool(missing))
    return store.folder


def _encoder(autoencoder: Autoencoder, *, device: torch.device) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Scans [B, 1, X, Y, Z] to mean and sigma [B, C, h, w, d], float32 on the CPU."""

    @torch.no_grad()
    def encode(volumes: Tensor) -> tuple[Tensor, Tensor]:
        mean, sigma = autoencoder.encode(volumes.to(device))
        return mean.float().cpu(), sigma.float().cpu()

    return encode


def _fill(
    store: LatentStore,
    run: RunCohort,
    *,
    missing: set[str],
    encode: Callable[[Tensor], tuple[Tensor, Tensor]],
    batch_size: int,
    progress: bool,
) -> None:
    paths, keys = list(run.frame["path"]), list(run.frame["key"])
    with tqdm(total=len(missing), desc="latents", disable=not progress) as bar:
        # a batch stays what it is, whatever of it is done: one of another size rounds otherwise
        every = [slice(start, start + batch_size) for start in range(0, len(keys), batch_size)]
        places = [place for place in every if not missing.isdisjoint(keys[place])]
        loaded = read_ahead(lambda place: read_volumes(run.cache, paths[place]), places)
        for place, volumes in zip(places, loaded, strict=True):
            names = keys[place]
            mean, sigma = encode(volumes)
            for index, key in enumerate(names):
                if key in missing:
                    store.write(key, mean[index], sigma[index])
                    bar.update()


def _finish(store: LatentStore, run: RunCohort, *, changed: bool) -> None:
    """Index and statistics, unless those that are there are of the same scans."""
    index = run.frame[["subject", "session", "path", "split", "key"]]
    if not changed and _index_is(store, run, content=index.to_csv(index=False)):
        return
    train = run.frame.loc[run.frame["split"] == "train", "key"]
    store.compute_stats(list(train))
    store.write_index(run.frame, run.split)


def _index_is(store: LatentStore, run: RunCohort, *, content: str) -> bool:
    try:
        store.stats()
        return bool(store.document()["split"] == run.split) and store.index().to_csv(index=False) == content
    except (FileNotFoundError, CheckpointError):
        return False
