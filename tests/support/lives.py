"""The lives of a rack's journal and of a mixer's ingest, each able to die at any named point (``zygote.py``).

The parts are the product's own, put together as its composition roots do: journal, shipper, bus client over mutual TLS;
stream reader, verification, lake. A point is named ``<before|half|after> <operation> <what>``.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from nacl.signing import SigningKey

from stagebox.bus import BusClient, BusMessage, BusOptions
from stagebox_mixer.audit import Audit
from stagebox_mixer.ingest import consumer
from stagebox_mixer.ingest.consumer import Ingest
from stagebox_mixer.lake import keeping, manifest
from stagebox_mixer.lake.lake import Lake
from stagebox_mixer.lake.storage import LocalStorage
from stagebox_mixer.limits import LIMITS as MIXER_LIMITS
from stagebox_mixer.registry.store import Registry
from stagebox_rack.wal.disk import Disk
from stagebox_rack.wal.events import JournalEvent
from stagebox_rack.wal.shipper import Shipper
from stagebox_rack.wal.wal import Wal
from support import natsd
from support.journal import QUICK, RACK, record
from support.registered import OneRack, StrictAudit
from support.zygote import Life

KEY = SigningKey(bytes(range(32)))
LAKE_KEY = bytes(range(32))
CLUSTER = "test"
BURST = 8

RACK_LIMITS = dataclasses.replace(
    QUICK,
    wal_commit_window=0.001,
    wal_hot_file_bytes=24 << 10,
    wal_maintain=0.02,
    wal_maintain_first=0.02,
    wal_mark_sync=0.01,
    wal_grace=0.0,
    wal_ship_timeout=1.0,
    wal_ship_retry_first=0.02,
    wal_ship_retry_max=0.1,
    wal_ship_work_share=1.0,
)
"""Small files and short pauses, so that a life of half a second seals, ships and evicts."""


class KillingDisk(Disk):
    """A disk whose operations are points."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._paths: dict[int, Path] = {}

    def create(self, path: Path) -> int:
        self._life.at(f"before create {_role(path)}")
        return self._named(super().create(path), path)

    def open(self, path: Path) -> int:
        return self._named(super().open(path), path)

    def _named(self, descriptor: int, path: Path) -> int:
        self._paths[descriptor] = path
        return descriptor

    def pwrite(self, descriptor: int, data: memoryview, offset: int) -> int:
        role = _role(self._paths[descriptor])
        if self._life.reaches(f"half pwrite {role}"):
            super().pwrite(descriptor, data[: len(data) // 2], offset)
            self._life.die()
        written = super().pwrite(descriptor, data, offset)
        self._life.at(f"after pwrite {role}")
        return written

    def datasync(self, descriptor: int) -> None:
        super().datasync(descriptor)
        self._life.at(f"after datasync {_role(self._paths[descriptor])}")

    def rename(self, source: Path, target: Path) -> None:
        self._life.at(f"before rename {_role(target)}")
        super().rename(source, target)
        self._paths = {d: target if path == source else path for d, path in self._paths.items()}
        self._life.at(f"after rename {_role(target)}")

    def unlink(self, path: Path) -> None:
        there = path.exists()
        if there:
            self._life.at(f"before unlink {_role(path)}")
        super().unlink(path)
        if there:
            self._life.at(f"after unlink {_role(path)}")

    def sync_dir(self, path: Path) -> None:
        super().sync_dir(path)
        self._life.at(f"after sync_dir {path.name}")


def _role(path: Path) -> str:
    """Return what a file of the journal is, under its final or its temporary name."""
    parts = path.name.removesuffix(".tmp").split(".")
    return parts[-1] if parts[-1] not in ("new", "zero") else "spare"


class KillingBus(BusClient):
    """A connection whose publishes to the journal's subject are points; it says when one goes out."""

    life: Life

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        *,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> BusMessage:
        window = subject == f"rack.{RACK}.wal"
        if window:
            self.life.at("before publish window")
            self.life.say("sent")
        reply = await super().request(subject, payload, timeout=timeout, headers=headers)
        if window:
            self.life.at("after publish window")
        return reply


def _bus(life: Life, name: str, server: str, tls: dict[str, str]) -> KillingBus:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(tls["ca"])
    context.load_cert_chain(tls["certificate"], tls["key"])
    bus = KillingBus(BusOptions(servers=(server,), name=name, ssl_context=context, limits=natsd.QUICK))
    bus.life = life
    return bus


async def rack(
    life: Life, *, directory: str, server: str, tls: dict[str, str], number: int, quota_bytes: int
) -> None:
    """Journal records from ``number`` on and ship them, until killed; with none (-1), only ship what is there.

    Says ``kept <number> <sequence>`` once a record is promised, and ``held <sequence>`` when the server has it.
    """

    def told(event: JournalEvent) -> None:
        if event.severity == "alert":
            life.say("alert", event.name, event.detail)

    limits = dataclasses.replace(RACK_LIMITS, wal_quota_bytes=quota_bytes)
    wal = await Wal.open(
        Path(directory), rack=RACK, signing_key=KEY, boot=os.urandom(16), limits=limits, on_event=told,
        disk=KillingDisk(life),
    )  # fmt: skip
    async with wal, _bus(life, "rack", server, tls) as bus:
        shipper = Shipper(wal, bus, f"rack.{RACK}.wal", KEY, on_event=told, limits=limits)
        bus.on_connected(shipper.connected)
        bus.on_connected(lambda: life.say("connected"))
        bus.on_disconnected(lambda _: shipper.disconnected())
        tasks = [asyncio.create_task(shipper.run()), asyncio.create_task(_held(life, wal))]
        if number >= 0:
            tasks.append(asyncio.create_task(_append(life, wal, number)))
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            raise AssertionError("something ended that goes on for ever")
        await wal.seal_now()
        await asyncio.sleep(0.1)  # the seals become records of their own
        await wal.wait_acknowledged(wal.committed)
        life.say("whole", wal.committed)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _append(life: Life, wal: Wal, number: int) -> None:
    while True:
        futures = []
        for n in range(number, number + BURST):
            what = record(n, size=512)
            futures.append(wal.append(what.kind, what.time_ns, what.subject, what.data))
        for n, future in enumerate(futures, number):
            life.say("kept", n, await future)
        number += BURST
        await asyncio.sleep(0.015)


async def _held(life: Life, wal: Wal) -> None:
    while True:
        await wal.wait_acknowledged(wal.acknowledged + 1)
        life.say("held", wal.acknowledged)


class KillingStorage(LocalStorage):
    """A place whose operations are points."""

    def __init__(self, root: Path, life: Life) -> None:
        super().__init__(root)
        self._life = life

    def write(self, path: str, data: bytes) -> None:
        role = _part(path)
        self._life.at(f"before write {role}")
        if self._life.reaches(f"half write {role}"):
            target = self.root / path
            self._make(target.parent)
            target.with_name(f".{target.name}.tmp").write_bytes(data[: len(data) // 2])
            self._life.die()
        super().write(path, data)
        self._life.at(f"after write {role}")

    def delete(self, path: str) -> None:
        self._life.at(f"before delete {_part(path)}")
        super().delete(path)
        self._life.at(f"after delete {_part(path)}")


def _part(path: str) -> str:
    """Return what a file of the lake is: ``cbor``, ``snapshot``, ``arrivals`` or ``sorted``."""
    if not path.endswith(".parquet"):
        return path.rsplit(".", 1)[-1]
    return "arrivals" if "arrivals" in path else "sorted"


async def mixer(life: Life, *, directory: str, server: str, tls: dict[str, str], last: int = 0) -> None:
    """Ingest until killed, or until the lake holds ``last``; says ``committed <sequence>`` after each commit."""
    quick = dataclasses.replace(
        MIXER_LIMITS, ingest_commit_s=0.02, ingest_retry_s=0.05, ingest_wait_s=0.1, lake_sort_after_s=0.0,
        lake_merge_files=3, lake_sweep_after_s=0.0, lake_snapshot_every=4,
    )  # fmt: skip
    for module in (consumer, keeping, manifest):
        vars(module)["LIMITS"] = quick
    lake = Lake(KillingStorage(Path(directory), life), LAKE_KEY, cluster=CLUSTER)
    await lake.open()
    async with _bus(life, "mixer", server, tls) as bus:
        ingest = Ingest(
            bus=bus,
            registry=cast(Registry, OneRack(bytes(KEY.verify_key))),
            lake=lake,
            audit=cast(Audit, StrictAudit()),
        )
        await ingest.start()
        seen = -1
        while not last or seen < last:
            held = sum(journal.last for journal in lake.all())
            if held == seen:
                await asyncio.sleep(0.005)  # a commit tells nobody
                continue
            seen = held
            life.say("committed", seen)
            await lake.tidy()
        await ingest.stop()
    await lake.close()
