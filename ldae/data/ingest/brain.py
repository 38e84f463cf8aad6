# SPDX-License-Identifier: Apache-2.0
"""Brain masks from elsewhere: a file beside the scan, or the program hd-bet."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ldae.data.ingest.manifest import RejectionError
from ldae.data.nifti import load_image, open_scan
from ldae.errors import InputError

PROGRAM = "hd-bet"
# On a processor HD-BET takes minutes a scan.
LONGEST = 7200


def check_program() -> None:
    """Stop where hd-bet cannot be called.

    Raises:
        InputError: It is not on the path.
    """
    if shutil.which(PROGRAM) is None:
        raise InputError(
            f"--brain hd-bet needs the program {PROGRAM}, which is not on the path. Install it with: "
            f"pip install hd-bet (it fetches its weights when it first runs), or leave --brain out."
        )


def given_mask(path: Path, *, scan: Path) -> NDArray[np.bool_]:
    """A mask that lies beside a scan, [X, Y, Z] on the scan's own grid.

    Raises:
        RejectionError: It is missing, empty, or lies on another grid.
    """
    if not path.is_file():
        raise RejectionError("preprocess", "no brain mask", detail=str(path))
    image, target = load_image(path), open_scan(scan)
    same = image.shape == target.shape and np.allclose(image.affine, target.affine, atol=1e-3)
    if not same:
        raise RejectionError("preprocess", "brain mask is not on the scan's grid", detail=str(path))
    mask = np.asarray(image.get_fdata(dtype=np.float32) > 0.5)
    if not mask.any():
        raise RejectionError("preprocess", "brain mask is empty", detail=str(path))
    return mask


def hd_bet_mask(scan: Path, *, scratch: Path) -> NDArray[np.bool_]:
    """The mask that HD-BET finds (Isensee et al., 2019), [X, Y, Z] on the scan's own grid.

    Args:
        scan: The scan.
        scratch: A folder for the copy in RAS order, which HD-BET wants, and its result.

    Raises:
        RejectionError: It fails or finds nothing.
    """
    image = open_scan(scan)
    source, target = scratch / "head.nii.gz", scratch / "brain.nii.gz"
    nib.save(nib.as_closest_canonical(image), source)
    device = _device()
    words = [PROGRAM, "-i", str(source), "-o", str(target), "-device", device]
    words += ["--save_bet_mask", "--no_bet_image", *(["--disable_tta"] if device == "cpu" else [])]
    done = subprocess.run(words, capture_output=True, text=True, timeout=LONGEST, check=False)
    found = scratch / "brain_bet.nii.gz"
    if done.returncode or not found.is_file():
        raise RejectionError("preprocess", "hd-bet failed", detail=done.stderr.strip()[-500:])
    values = nib.load(found).get_fdata(dtype=np.float32)  # type: ignore[attr-defined]
    back = nib.orientations.ornt_transform(
        nib.io_orientation(nib.as_closest_canonical(image).affine), nib.io_orientation(image.affine)
    )
    mask = np.asarray(nib.apply_orientation(values, back) > 0.5)
    if not mask.any():
        raise RejectionError("preprocess", "hd-bet found no brain")
    return mask


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
