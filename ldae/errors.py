# SPDX-License-Identifier: Apache-2.0
"""The errors whose message is meant for the person at the keyboard."""

from __future__ import annotations


class InputError(ValueError):
    """Something the user gave is wrong; the message says what, where, and what to do."""


class CheckpointError(RuntimeError):
    """An artefact is damaged, or does not belong to the others; the message names both sides."""


class StorageError(OSError):
    """A file cannot be written, such as on a full disk; the message names it and says what to do."""


class Interrupted(Exception):  # noqa: N818  # it is no fault
    """The user asked to stop, and what was done so far is saved; the message says how to go on."""
