# SPDX-License-Identifier: Apache-2.0
"""The documented entry from a clone: `python run_cli.py VERB ...` is the same program as `ldae VERB ...`."""

from __future__ import annotations

from ldae.cli.main import entry

if __name__ == "__main__":
    entry()
