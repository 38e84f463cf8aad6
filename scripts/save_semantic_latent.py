# SPDX-License-Identifier: Apache-2.0
"""Write the semantic code of every scan of a cohort, a Parquet table a split.

The tables MODEL_SPLIT_embeddings_and_labels_SUFFIX_TARGET.parquet come into the working directory; each has
one row a scan: subject, session, split, path, diagnosis, age, further columns of the cohort, and y_000 and
on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _program import Parser, run

if TYPE_CHECKING:
    from ldae.nets.semantic import SemanticConfig

AVERAGED = "ema_encoder"
COMPARED = ("code_size", "plane", "pooling", "token_size", "normalisation")


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Read the words after the script's name."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--csv_path", type=Path, required=True, metavar="CSV", help="the cohort, with its split"
    )
    parser.add_argument(
        "--model_path", type=Path, required=True, metavar="DIR", help="folder of the pipeline"
    )
    parser.add_argument(
        "--config_path",
        type=Path,
        metavar="YAML",
        help="config of stage 3; the pipeline carries its own, so this one is only compared with it",
    )
    parser.add_argument(
        "--model_name", default="ldae", metavar="WORD", help="first word of the tables' names"
    )
    parser.add_argument(
        "--target_model",
        default=AVERAGED,
        metavar="WORD",
        help=f"{AVERAGED}, the only one that a pipeline holds",
    )
    parser.add_argument("--suffix", default="", metavar="WORD", help="goes into the tables' names")
    return parser.parse_args(words)


def main(words: Sequence[str]) -> None:
    """Embed."""
    args = parse(words)
    check_words(args)

    from ldae.data.cohort import SPLITS, read_cohort
    from ldae.data.split import split_hash
    from ldae.pipeline.embeddings import write_embeddings
    from ldae.pipeline.pipeline import LDAEPipeline

    frame = read_cohort(args.csv_path)
    split = split_hash(frame)
    pipeline = LDAEPipeline.from_pretrained(args.model_path)
    if args.config_path is not None:
        check_config(args.config_path, pipeline.networks.encoder.config)
    table = pipeline.embed(frame, progress=sys.stderr.isatty())
    for word in SPLITS:
        rows = table[table["split"] == word]
        if len(rows):
            rows.attrs = {**table.attrs, "split": split}
            out = table_name(args, word)
            write_embeddings(rows, out)
            print(f"wrote {out}, {len(rows)} scans")


def table_name(args: argparse.Namespace, split: str) -> Path:
    """Name of the table of a split."""
    words = [args.model_name, split, "embeddings_and_labels", args.suffix, args.target_model]
    return Path("_".join(word for word in words if word) + ".parquet")


def check_words(args: argparse.Namespace) -> None:
    """Stop where a flag of the published script asks for what a pipeline does not have.

    Raises:
        InputError: It says which flag, and what to give instead.
    """
    from ldae.errors import InputError

    if args.target_model != AVERAGED:
        raise InputError(
            f"--target_model must be {AVERAGED}, got {args.target_model!r}: a pipeline holds averaged "
            "weights only."
        )
    for flag in ("model_name", "suffix"):
        word = getattr(args, flag)
        if "/" in word or "\\" in word:
            raise InputError(f"--{flag} must be a word for file names, got {word!r}. Leave the folders out.")
    if args.model_path.is_file():
        raise InputError(
            f"--model_path must be the folder of a pipeline, got the file {args.model_path}. Convert it "
            "first: "
            "python scripts/convert_checkpoint.py --kind ldae, then ldae assemble."
        )


def check_config(path: Path, config: SemanticConfig) -> None:
    """Stop where a config speaks of another encoder than the pipeline's.

    Raises:
        FileNotFoundError: There is no such file.
        InputError: It is no config of stage 3, or says otherwise than the pipeline.
    """
    from ldae.errors import InputError

    told = read_encoder_config(path)
    wrong = [
        f"{name} {told[name]!r} for {getattr(config, name)!r}"
        for name in COMPARED
        if name in told and told[name] != getattr(config, name)
    ]
    if wrong:
        raise InputError(
            f"--config_path must describe the pipeline's encoder, but {path} says {', '.join(wrong)}. Give "
            "the "
            "config that it was trained with, or leave the flag out."
        )


def read_encoder_config(path: Path) -> dict[str, Any]:
    """What a config, of this package or of the published code, says of the encoder."""
    import yaml

    from ldae.errors import InputError

    if not path.is_file():
        raise FileNotFoundError(f"--config_path must be a file, got {path}, which does not exist.")
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"--config_path must be YAML, but reading {path} failed: {error}.") from error
    own = _inside(document, "model", "init_args", "encoder")
    published = _inside(document, "fit", "model", "init_args", "enc_args")
    if own is None and published is None:
        raise InputError(
            f"--config_path must be a config of stage 3, got {path} without model.init_args.encoder. Give "
            "configs/ldae_repr_learn.yaml, or leave the flag out."
        )
    if own is not None:
        return dict(own)
    plane = (_inside(document, "fit", "data") or {}).get("slicing_plane")
    told = {"code_size": (published or {}).get("emb_chans"), "plane": plane}
    return {name: value for name, value in told.items() if value is not None}


def _inside(document: Any, *keys: str) -> Mapping[str, Any] | None:
    for key in keys:
        document = document.get(key) if isinstance(document, Mapping) else None
    return document if isinstance(document, Mapping) else None


if __name__ == "__main__":
    run(main)
