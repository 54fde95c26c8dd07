"""What the machine under a rack is doing: processor, memory, disk, temperature, addresses, versions.

Sampled in a worker thread on a schedule of its own, so that a slow disk or sensor delays no heartbeat; a heartbeat
tells the newest sample and how old it is.
"""

from __future__ import annotations

import asyncio
import os
import platform
import socket
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import structlog

from stagebox_rack.limits import LIMITS

log = structlog.get_logger()

_LIBRARIES = ("stagebox", "stagebox-rack", "numpy", "av", "sounddevice", "pyarrow")


class HostSampler:
    """Samples this machine; ``state_dir`` is where the rack's disk is looked at."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._process = psutil.Process()
        self._sample: dict[str, Any] = {}
        self._sampled = 0.0
        self._versions = versions()
        psutil.cpu_percent()  # the first answer of each is about nothing: it is thrown away
        self._process.cpu_percent()

    async def run(self) -> None:
        """Sample again and again."""
        while True:
            try:
                self._sample = await asyncio.to_thread(self.sample)
                self._sampled = time.monotonic()
            except (psutil.Error, OSError) as error:
                log.warning("host_not_sampled", error=str(error))
            await asyncio.sleep(LIMITS.host_sample)

    def latest(self) -> dict[str, Any]:
        """The newest sample with its age; only the versions before the first."""
        if not self._sample:
            return {"versions": self._versions}
        age = round(time.monotonic() - self._sampled, 3)
        return {**self._sample, "age_s": age, "versions": self._versions}

    def sample(self) -> dict[str, Any]:
        """Look at everything now. May take a while.

        Raises:
            psutil.Error, OSError: the machine does not say.
        """
        memory, disk = psutil.virtual_memory(), psutil.disk_usage(str(self._state_dir))
        return {
            "cpu_percent": psutil.cpu_percent(),
            "cpu_count": psutil.cpu_count() or 1,
            "process_cpu_percent": self._process.cpu_percent(),
            "process_rss": self._process.memory_info().rss,
            "load": os.getloadavg()[0],
            "memory_total": memory.total,
            "memory_available": memory.available,
            "disk_total": disk.total,
            "disk_free": disk.free,
            "temperature_c": temperature(),
            "addresses": addresses(),
            "boot_time": int(psutil.boot_time()),
        }


def temperature() -> float | None:
    """The hottest sensor in °C, None if the machine has none."""
    if not hasattr(psutil, "sensors_temperatures"):
        return None
    readings = [entry.current for found in psutil.sensors_temperatures().values() for entry in found]
    credible = [value for value in readings if value is not None and -40 <= value <= 150]
    return round(max(credible), 1) if credible else None


def addresses() -> dict[str, list[str]]:
    """The addresses of every interface that is up, loopback left out, by name."""
    up = psutil.net_if_stats()
    found: dict[str, list[str]] = {}
    for name, entries in sorted(psutil.net_if_addrs().items()):
        if name not in up or not up[name].isup:
            continue
        plain = [
            entry.address.partition("%")[0]
            for entry in entries
            if entry.family in (socket.AF_INET, socket.AF_INET6)
            and not entry.address.startswith(("127.", "::1", "fe80:"))
        ]
        if plain:
            found[name] = plain[: LIMITS.host_addresses]
        if len(found) == LIMITS.host_interfaces:
            break
    return found


def versions() -> dict[str, str]:
    """Of the operating system, Python, and the libraries that matter for audio."""
    found = {
        "os": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "python": platform.python_version(),
    }
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    sounddevice = sys.modules.get("sounddevice")  # only if a device source has loaded it
    if sounddevice is not None:
        found["portaudio"] = str(sounddevice.get_portaudio_version()[1])
    return found
