# SPDX-License-Identifier: Apache-2.0
"""From scanner export to cohort: extract, analyse, process, match and review, over one manifest."""

from ldae.data.ingest.run import Summary, ingest

__all__ = ["Summary", "ingest"]
