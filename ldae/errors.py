# SPDX-License-Identifier: Apache-2.0
"""The two errors whose message is meant for the person at the keyboard."""

from __future__ import annotations


class InputError(ValueError):
    """Something the user gave is wrong; the message says what, where, and what to do."""


class CheckpointError(RuntimeError):
    """An artefact is damaged, or does not belong to the others; the message names both sides."""
