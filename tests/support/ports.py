"""Ports for servers of tests."""

from __future__ import annotations

import random
import socket
from pathlib import Path

_LOWEST = 10_000
_TRIES = 1_000
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")

_given: set[int] = set()


def _ephemeral() -> range:
    first, last = _EPHEMERAL.read_text().split()
    return range(int(first), int(last) + 1)


def free_port() -> int:
    """Return a random loopback TCP port nobody listens on, once only in this process.

    Never one the kernel gives to outgoing connections: between this call and the server's ``bind``, or
    while the server is down, any client on the machine could otherwise be given it, even a client that
    is trying to reach that very port, which TCP then connects to itself.

    Raises:
        RuntimeError: no port was found.
    """
    ephemeral = _ephemeral()
    below, above = range(_LOWEST, ephemeral.start), range(max(ephemeral.stop, _LOWEST), 65_536)
    for _ in range(_TRIES):
        port = random.choice(below if random.randrange(len(below) + len(above)) < len(below) else above)
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port
    raise RuntimeError(f"no free port was found outside {ephemeral.start}-{ephemeral.stop - 1}")
