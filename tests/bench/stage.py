"""A throw-away cluster for measurements: the demo's, with enrolled identities in this process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from demo.throwaway import MixerAddress, ThrowawayCluster
from stagebox.identity import machine_id
from stagebox_rack import state
from stagebox_rack.state import RackIdentity, StatePaths


@dataclass(frozen=True)
class Stage:
    """A running mixer and the means to enroll racks with it."""

    cluster: ThrowawayCluster
    mixer: MixerAddress

    async def identity(self, rack: str) -> RackIdentity:
        """Enroll ``rack`` and return its identity, for use in this process."""
        await self.cluster.enroll(self.mixer, rack, await self.cluster.make_ticket(self.mixer, rack))
        return state.load(StatePaths(self.cluster.state_dir(rack)), machine_id=machine_id())


@contextlib.asynccontextmanager
async def stage() -> AsyncIterator[Stage]:
    """Make a cluster, start its mixer, and take everything down again."""
    with tempfile.TemporaryDirectory(prefix="stagebox-bench-") as name:
        async with ThrowawayCluster(Path(name)) as cluster:
            await cluster.make_keys()
            yield Stage(cluster, await cluster.start_mixer())


def cpu_seconds(pid: int) -> float:
    """User and system time a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def pace(start: float, index: int, interval: float) -> None:
    """Wait until tick ``index`` of a clock that started at ``start`` (perf_counter seconds)."""
    await asyncio.sleep(max(0.0, start + index * interval - time.perf_counter()))
