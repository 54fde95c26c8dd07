"""What counts as this machine, where plaintext may be spoken."""

from __future__ import annotations

import ipaddress


def is_loopback(host: str) -> bool:
    """Tell whether ``host`` is this machine: ``localhost`` or a loopback IP literal, no other name.

    ``127.evil.example`` is a name that somebody else's DNS answers for, so it is not loopback.
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
