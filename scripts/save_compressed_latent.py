# SPDX-License-Identifier: Apache-2.0
"""Compress the scans of a cohort and write the cohort again with the column `latent_path`.

Beside `COHORT.csv` come `COHORT_with_compressed_latent.csv` and the folder `COHORT_latents/`, a safetensors
file a scan with the posterior's `mean` and `sigma`. What is there and still valid stays.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from _program import Parser, add_spec, read_spec, run


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Read the words after the script's name."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv_path", type=Path, required=True, metavar="CSV", help="the cohort")
    parser.add_argument(
        "--ae_model_path",
        type=Path,
        required=True,
        metavar="PATH",
        help="autoencoder/ of a run, or an older checkpoint, which is converted into COHORT_autoencoder/",
    )
    add_spec(parser)
    return parser.parse_args(words)


def main(words: Sequence[str]) -> None:
    """Compress."""
    args = parse(words)

    from ldae.data.cohort import read_cohort, write_cohort

    frame = read_cohort(args.csv_path)
    # only now what takes seconds to import
    import torch
    from tqdm import tqdm

    from ldae.data.cache import VolumeCache
    from ldae.data.latents import LatentStore
    from ldae.data.spec import PreprocessingSpec
    from ldae.pipeline.networks import choose_device
    from ldae.stages.components import load_autoencoder

    base = args.csv_path.with_suffix("")
    autoencoder, component = load_autoencoder(
        find_autoencoder(args, base.with_name(f"{base.name}_autoencoder"))
    )
    device = choose_device("auto")
    autoencoder.to(device)
    spec = PreprocessingSpec.from_dict(component.spec or {})
    folder = base.with_name(f"{base.name}_latents")
    store = LatentStore(folder, autoencoder=component.sha256, spec=spec.sha256)
    names = VolumeCache(folder, spec)
    keys = {path: names.key(path) for path in frame["path"]}
    missing = set(store.missing(list(keys.values())))
    for path, key in tqdm(keys.items(), desc="latents", disable=not sys.stderr.isatty()):
        if key in missing:
            with torch.no_grad():
                mean, sigma = autoencoder.encode(spec.apply(path).data[None].to(device))
            store.write(key, mean[0], sigma[0])
    out = base.with_name(f"{base.name}_with_compressed_latent.csv")
    latents = [f"{folder.name}/{keys[path]}.safetensors" for path in frame["path"]]
    write_cohort(frame.assign(latent_path=latents), out)
    print(f"{len(missing)} of {len(keys)} scans were compressed; the cohort with latent_path is in {out}")


def find_autoencoder(args: argparse.Namespace, converted: Path) -> Path:
    """The autoencoder's folder, converted first from an older checkpoint."""
    if not args.ae_model_path.is_file():
        return Path(args.ae_model_path)
    from ldae.pipeline.convert import ConversionOptions, convert_checkpoint

    options = ConversionOptions(spec=read_spec(args))
    convert_checkpoint(args.ae_model_path, converted, kind="autoencoder", options=options)
    return converted


if __name__ == "__main__":
    run(main)
