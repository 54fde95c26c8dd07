"""systemd's notification protocol: ``READY=1``, ``STOPPING=1`` and the watchdog.

Source: sd_notify(3), sd_watchdog_enabled(3). Without ``NOTIFY_SOCKET`` every call does nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Mapping


class Notifier:
    """Speaks to the service manager named in ``environment``."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):
            self._address = "\0" + self._address[1:]
        self.watchdog_s = _watchdog_s(environment)

    def notify(self, *lines: str) -> None:
        """Send ``lines`` such as ``READY=1``; a manager that went away or hangs is no reason to stop."""
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)  # a manager that does not read must not stop the event loop
            sender.sendto("\n".join(lines).encode(), self._address)

    async def watch(self, healthy: Callable[[], bool]) -> None:
        """Send ``WATCHDOG=1`` at half the asked interval, as long as ``healthy()`` says so.

        Returns at once when no watchdog is asked for. An unhealthy process stays silent, so the manager
        restarts it.
        """
        if self.watchdog_s is None or not self._address:
            return
        while True:
            if healthy():
                self.notify("WATCHDOG=1")
            await asyncio.sleep(self.watchdog_s / 2)


def _watchdog_s(environment: Mapping[str, str]) -> float | None:
    text = environment.get("WATCHDOG_USEC", "")
    wanted = environment.get("WATCHDOG_PID", "")
    if not text.isdecimal() or int(text) == 0 or (wanted and wanted != str(os.getpid())):
        return None
    return int(text) / 1e6
