# SPDX-License-Identifier: Apache-2.0
"""Results as a BIDS derivative: names, sidecars, and the tables that explain them."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldae import __version__
from ldae.data.artefact import atomic_path, read_json, sha256_bytes, whole, write_json
from ldae.data.scan import DifferenceMap, Scan
from ldae.errors import InputError

BIDS_VERSION = "1.10.0"
DESCRIPTION_NAME = "dataset_description.json"
DESCRIPTIONS_NAME = "descriptions.tsv"
DEFAULT_SUFFIX = "T1w"
SUFFIXES = ("T1w", "T2w", "PDw", "T2starw", "FLAIR", "inplaneT1", "inplaneT2")
ENTITY = re.compile(r"([a-zA-Z]+)-([a-zA-Z0-9]+)")
# Of the source's name: its own description is no longer true of what is written.
DROPPED_ENTITIES = ("sub", "ses", "desc")


def label(text: str, *, prefix: str) -> str:
    """A BIDS label (letters and digits) from a subject's or session's name; a hash where nothing is left."""
    plain = re.sub("[^a-zA-Z0-9]", "", text.strip().removeprefix(f"{prefix}-"))
    return plain or sha256_bytes(text.encode())[:8]


def stem(path: str | Path) -> str:
    """File name without .nii or .nii.gz."""
    return re.sub(r"\.nii(\.gz)?$", "", Path(path).name, flags=re.IGNORECASE)


@dataclass(frozen=True)
class ScanName:
    """What the outputs of a scan are called.

    Attributes:
        subject: Label after "sub-".
        session: Label after "ses-", or None.
        entities: Further entities of the source's name in their order, such as ("run", "1").
        suffix: Kind of image.
    """

    subject: str
    session: str | None = None
    entities: tuple[tuple[str, str], ...] = ()
    suffix: str = DEFAULT_SUFFIX

    @classmethod
    def of(cls, path: str | Path, *, subject: str | None = None, session: str | None = None) -> ScanName:
        """The name of a scan: from its file's BIDS name, else its row in a cohort, else its file's stem.

        The row wins where the file names another subject.
        """
        parts = stem(path).split("_")
        suffix = parts.pop() if len(parts) > 1 and parts[-1] in SUFFIXES else DEFAULT_SUFFIX
        found = [(match[1], match[2]) for match in map(ENTITY.fullmatch, parts) if match]
        named = dict(found)
        kept = tuple((key, value) for key, value in found if key not in DROPPED_ENTITIES)
        if "sub" in named and len(found) == len(parts):
            if subject is None or label(subject, prefix="sub") == named["sub"]:
                return cls(named["sub"], named.get("ses"), kept, suffix)
            return cls(label(subject, prefix="sub"), _session_label(session), kept, suffix)
        if subject is None:
            return cls(label("_".join(parts), prefix="sub"), suffix=suffix)
        return cls(label(subject, prefix="sub"), _session_label(session), suffix=suffix)

    def file(self, desc: str) -> Path:
        """Path inside the derivative; "desc" is the last entity."""
        session = [f"ses-{self.session}"] if self.session else []
        entities = [f"{key}-{value}" for key, value in self.entities]
        name = "_".join([f"sub-{self.subject}", *session, *entities, f"desc-{desc}", self.suffix])
        return Path(f"sub-{self.subject}", *session, "anat", f"{name}.nii.gz")


def _session_label(session: str | None) -> str | None:
    return label(session, prefix="ses") if session else None


def number_label(value: float) -> str:
    """A number as letters and digits: 0.25 is "0p25", -1 is "m1"."""
    return f"{value:g}".replace(".", "p").replace("-", "m").replace("+", "")


class Derivative:
    """A BIDS derivative that is being written.

    Args:
        folder: Its root.
        sources: The scans that it is made from.

    Raises:
        InputError: The folder holds a source scan, or a dataset that ldae did not write.
    """

    def __init__(self, folder: str | Path, *, sources: Sequence[str | Path]) -> None:
        self.folder = Path(folder)
        self.sources = [Path(source).absolute() for source in sources]
        self._check()

    def _check(self) -> None:
        root = self.folder.resolve()
        beside = next((source for source in self.sources if source.resolve().is_relative_to(root)), None)
        if beside is not None:
            raise InputError(
                f"Results must lie apart from raw scans, got folder {self.folder}, which holds {beside}. "
                "Choose another one with --out."
            )
        path = self.folder / DESCRIPTION_NAME
        if path.is_file() and not _is_ours(read_json(path)):
            raise InputError(
                f"Results must go to a new folder or one of ldae's, got {self.folder}, whose "
                f"{DESCRIPTION_NAME} is another's. Choose another one with --out."
            )

    def write(
        self,
        scan: Scan | DifferenceMap,
        name: ScanName,
        *,
        desc: str,
        description: str,
        sources: Sequence[str | Path],
        details: Mapping[str, Any],
    ) -> Path:
        """Write a synthetic scan, or a map of synthetic scans, in its source's own space, with its sidecar.

        Args:
            scan: What is written.
            name: What it is called.
            desc: Its "desc" label; letters and digits.
            description: What that label means, one sentence.
            sources: The scans that it was made from.
            details: Further keys of the sidecar.

        Returns:
            Path of the NIfTI file.
        """
        path = self.folder / name.file(desc)
        sidecar = path.with_name(f"{stem(path)}.json")
        if path.exists() and not (sidecar.is_file() and read_json(sidecar).get("Synthetic")):
            raise InputError(
                f"An output must not replace another's file, got {path}. Choose another folder with --out."
            )
        self._describe_dataset()
        self._describe(desc, description)
        document = {
            "Description": description,
            "Synthetic": True,
            "Sources": [str(Path(source).absolute()) for source in sources],
            "GeneratedBy": _generated_by(),
            **details,
        }
        with atomic_path(path) as temporary:
            scan.save(temporary)
            # An image whose sidecar was never written, as the process was killed, would look like another's.
            write_json(sidecar, document)
        return path

    def _describe_dataset(self) -> None:
        path = self.folder / DESCRIPTION_NAME
        known = read_json(path)["SourceDatasets"] if path.is_file() else []
        urls = {entry["URL"] for entry in known} | {dataset_root(source).as_uri() for source in self.sources}
        document = {
            "Name": "Scans rendered by ldae",
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "derivative",
            "GeneratedBy": _generated_by(),
            "SourceDatasets": [{"URL": url} for url in sorted(urls)],
        }
        if not path.is_file() or read_json(path) != document:
            write_json(path, document)

    def _describe(self, desc: str, description: str) -> None:
        path = self.folder / DESCRIPTIONS_NAME
        rows: dict[str, str] = {}
        if path.is_file():
            with whole(path), path.open(newline="", encoding="utf-8") as stream:
                rows = {row["desc_id"]: row["description"] for row in csv.DictReader(stream, delimiter="\t")}
        if rows.get(desc) == description:
            return
        text = io.StringIO()
        writer = csv.writer(text, delimiter="\t", lineterminator="\n")
        writer.writerows([("desc_id", "description"), *sorted({**rows, desc: description}.items())])
        with atomic_path(path) as temporary:
            temporary.write_text(text.getvalue(), encoding="utf-8")


def dataset_root(scan: Path) -> Path:
    """The BIDS dataset that a scan lies in, or else its folder."""
    for parent in scan.parents:
        if (parent / DESCRIPTION_NAME).is_file():
            return parent
    return scan.parent


def check_names(names: Sequence[ScanName], paths: Sequence[str | Path]) -> None:
    """Stop when two scans would be written under one name.

    Raises:
        InputError: With both.
    """
    first: dict[ScanName, str | Path] = {}
    for name, path in zip(names, paths, strict=True):
        other = first.setdefault(name, path)
        if str(other) != str(path):
            raise InputError(
                f"Outputs must have a name each, got {name.file('x').parent} for both {other} and "
                f"{path}. Give each another --out, or list them in a cohort with their sessions."
            )


def _generated_by() -> list[dict[str, str]]:
    return [{"Name": "ldae", "Version": __version__}]


def _is_ours(document: Any) -> bool:
    if not isinstance(document, dict) or document.get("DatasetType") != "derivative":
        return False
    return any(tool.get("Name") == "ldae" for tool in document.get("GeneratedBy", []))
