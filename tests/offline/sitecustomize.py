# SPDX-License-Identifier: Apache-2.0
"""Python loads this at its start where this folder is on PYTHONPATH: sockets then reach this machine only."""

from __future__ import annotations

import socket
from typing import Any

LOCAL = ("127.", "localhost", "::1", "0.0.0.0")


class NetworkUseError(RuntimeError):
    """A test tried to leave the machine."""


def _check(host: Any) -> None:
    name = host.decode() if isinstance(host, bytes) else host
    if name and not str(name).startswith(LOCAL):
        raise NetworkUseError(f"tests must not use the network, got a connection to {name}")


def _guard(function: Any) -> Any:
    def guarded(self: socket.socket, address: Any) -> Any:
        if isinstance(address, tuple):
            _check(address[0])
        return function(self, address)

    return guarded


def _guard_lookup(function: Any) -> Any:
    def guarded(host: Any, *args: Any, **kwargs: Any) -> Any:
        _check(host)
        return function(host, *args, **kwargs)

    return guarded


def forbid_network() -> None:
    """Make every connection and look-up fail that leaves the machine."""
    for name in ("connect", "connect_ex"):
        setattr(socket.socket, name, _guard(getattr(socket.socket, name)))
    for name in ("getaddrinfo", "gethostbyname"):
        setattr(socket, name, _guard_lookup(getattr(socket, name)))


forbid_network()
