# SPDX-License-Identifier: Apache-2.0
"""The suite cannot reach the network."""

from __future__ import annotations

import socket
import subprocess
import sys
import urllib.request

import pytest

ELSEWHERE = ("192.0.2.1", 80)  # reserved for documentation, nobody's address


def test_a_connection_elsewhere_fails() -> None:
    with socket.socket() as connection, pytest.raises(RuntimeError, match="must not use the network"):
        connection.connect(ELSEWHERE)


def test_a_name_is_not_looked_up() -> None:
    with pytest.raises(RuntimeError, match="must not use the network"):
        urllib.request.urlopen("http://example.invalid/")


def test_processes_that_tests_start_are_offline_too() -> None:
    code = f"import socket; socket.create_connection({ELSEWHERE!r}, timeout=1)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "must not use the network" in done.stderr


def test_this_machine_can_be_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=5).close()
