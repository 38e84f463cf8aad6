# SPDX-License-Identifier: Apache-2.0
"""An ingest that kills itself, as the system would, at its n-th file: killed_ingest.py HOSPITAL OUT N."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

hospital, out, after = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
written = 0


def replace(source: object, target: object, _replace: object = os.replace) -> None:
    """Count what is put in place below the output; half of the kills come before, half after."""
    global written
    if str(target).startswith(str(out)):
        written += 1
        if written == after:
            if after % 2:
                _replace(source, target)  # type: ignore[operator]
            os.kill(os.getpid(), signal.SIGKILL)
    _replace(source, target)  # type: ignore[operator]


os.replace = replace  # type: ignore[assignment]

from ldae.data.ingest import ingest  # noqa: E402

ingest(
    hospital / "export", out, key=hospital / "secret.json", clinical=hospital / "visits.csv", min_slices=20
)
