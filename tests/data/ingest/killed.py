# SPDX-License-Identifier: Apache-2.0
"""A run that kills itself, as the system would, at its n-th file below the output.

killed.py ingest HOSPITAL OUT N, or killed.py preprocess COHORT OUT N.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

verb, source, out, after = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
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

if verb == "ingest":
    from ldae.data.ingest import ingest

    clinical = source / "visits.csv"
    ingest(source / "export", out, key=source / "secret.json", clinical=clinical, min_slices=20)
else:
    from known_heads import in_place

    from ldae.data.ingest import preprocess

    sys.modules["ants"] = sys.modules[__name__]
    preprocess.register = in_place  # type: ignore[assignment]
    preprocess.preprocess(source, out, spacing=4)
