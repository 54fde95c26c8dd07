"""A rack's side of patch sheets without a rack: asks for its sheet and for files, takes what is commanded, complains.

And what a mixer needs before it takes a module: a vendor who is trusted here and now.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from nacl.signing import SigningKey

from stagebox import subjects
from stagebox.bus import BusClient, BusMessage
from stagebox.control.command import Ack, AckResult, CommandVerb, open_command
from stagebox.control.denylist import DenyList, open_deny_list
from stagebox.control.fields import payload_digest
from stagebox.control.request import Answer, Request, Verb, open_answer
from stagebox.modules.capabilities import Capability
from stagebox.modules.patch import PatchSheet, Point, open_sheet
from stagebox.modules.statement import ModuleLimits
from stagebox.records.event import Event
from stagebox.records.status import Status
from stagebox_mixer.modules.model import Assignment, ModuleEntry
from stagebox_rack.state import RackIdentity
from support.modules import DAY, GAIN_PARAM, NOW, Vendor, make_root, make_vendor, signed_module
from support.rackside import connected, rack_options

BOOT = bytes(range(16))


def vendor_now(number: int = 1, *, owner: str = "tone-works", **changes: Any) -> Vendor:
    """Return a vendor whose root is valid now."""
    key, now = SigningKey(bytes([number]) * 32), time.time_ns()
    times = {"not_before": now - 30 * DAY, "not_after": now + 365 * DAY}
    return Vendor(key, make_root(key, owner=owner, **{**times, **changes}))


def trust(directory: Path, vendor: Vendor, **changes: Any) -> Path:
    """Write the vendor's root file, with a root that differs in ``changes``; return its path."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / f"{vendor.root.owner}.toml"
    path.write_text(replace(vendor.root, **changes).render())
    path.chmod(0o600)
    return path


def signed_now(wasm: bytes | None = None, *, vendor: Vendor, life: int = 90 * DAY, **fields: Any) -> bytes:
    """Return a module that the vendor signed an hour ago."""
    issued = time.time_ns() - 3_600 * 10**9
    return signed_module(wasm, vendor=vendor, **{"issued": issued, "expires": issued + life, **fields})


def module_entry(**changes: Any) -> ModuleEntry:
    """Return a module's registry entry: of the gain module by default."""
    fields: dict[str, Any] = {
        "name": "gain", "version": "1.0.0", "digest": b"\1" * 32, "size": 2000, "vendor_digest": b"\2" * 32,
        "vendor_size": 1000, "vendor": "tone-works", "key_id": make_vendor().root.key_id, "signer": "tone-works",
        "capabilities": (Capability.AUDIO,), "granted": (Capability.AUDIO,), "limits": ModuleLimits(),
        "serial": 1, "expires": NOW + 90 * DAY, "imported": NOW, "imported_by": "spiffe://ops",
        "params": (GAIN_PARAM,),
    }  # fmt: skip
    return ModuleEntry(**{**fields, **changes})


def module_assignment(**changes: Any) -> Assignment:
    """Return an assignment of it to every rack."""
    fields: dict[str, Any] = {
        "id": "eq", "module": "gain", "version": "1.0.0", "racks": ("*",), "point": Point.METERS,
        "source": "main", "bus": "", "created": NOW, "time": NOW, "by": "spiffe://ops",
    }  # fmt: skip
    return Assignment(**{**fields, **changes})


class PatchedRack:
    """One connected rack. Every command is acknowledged as done unless ``result`` says otherwise."""

    def __init__(self, bus: BusClient, identity: RackIdentity, cluster: str, public: bytes) -> None:
        self.bus = bus
        self.identity = identity
        self.name = identity.passport.name
        self.result = AckResult.DONE
        self._cluster = cluster
        self._public = public
        self._sheets: asyncio.Queue[PatchSheet] = asyncio.Queue()
        self._denied: asyncio.Queue[DenyList] = asyncio.Queue()
        self._seq = 0

    async def start(self) -> None:
        """Begin to hear commands and bans."""
        await self.bus.subscribe(subjects.command(self.name), self._obey)
        await self.bus.subscribe(subjects.DENY_LIST, self._hear_bans)

    async def ask(self, verb: Verb, body: Mapping[str, Any], *, key: SigningKey | None = None) -> Answer:
        """Send a request and return the verified answer."""
        nonce, now_ns = secrets.token_bytes(16), time.time_ns()
        request = Request(self._cluster, self.name, verb.value, nonce, now_ns, dict(body))
        data = request.seal(key if key is not None else self.identity.key)
        reply = await self.bus.request(subjects.request(self.name, verb.value), data)
        return open_answer(reply.payload, self._public, request)

    async def sheet(self, held: int = 0) -> PatchSheet | None:
        """Ask for the sheet; None if ``held`` is the one."""
        answer = await self.ask(Verb.PATCH, {"Serial": held})
        assert not answer.error, answer
        return open_sheet(answer.body["Sheet"], self._public) if answer.body["Sheet"] else None

    async def fetch(self, digest: bytes) -> bytes:
        """Ask for a file, piece by piece."""
        data, size = b"", 1
        while len(data) < size:
            answer = await self.ask(Verb.MODULE, {"Digest": digest, "Offset": len(data)})
            assert not answer.error, answer
            data, size = data + answer.body["Data"], answer.body["Size"]
        return data

    async def told(self, timeout: float = 10.0) -> PatchSheet:
        """Wait for the next sheet that comes by command."""
        async with asyncio.timeout(timeout):
            return await self._sheets.get()

    async def banned(self, timeout: float = 10.0) -> DenyList:
        """Wait for the next deny list that is announced."""
        async with asyncio.timeout(timeout):
            return await self._denied.get()

    def complain(self, name: str, **detail: Any) -> None:
        """Raise an alert."""
        self._seq += 1
        record = Event(self._seq, BOOT, time.time_ns(), name, detail)
        self.bus.publish(subjects.alert(self.name), record.encode())

    def beat(self, *modules: Mapping[str, Any]) -> None:
        """Send a heartbeat that lists modules."""
        self._seq += 1
        body = {"modules": [dict(module) for module in modules]}
        record = Status(self._seq, BOOT, time.time_ns(), "running", body)
        self.bus.publish(subjects.status(self.name), record.encode())

    def _obey(self, message: BusMessage) -> None:
        command, payload = open_command(message.payload, self._public)
        if command.verb == CommandVerb.PATCH:
            self._sheets.put_nowait(open_sheet(command.args["Sheet"], self._public))
        ack = Ack(
            cluster=self._cluster, rack=self.name, seq=command.seq, command=payload_digest(payload), boot=BOOT,
            time_ns=time.time_ns(), result=self.result,
            reason="" if self.result is AckResult.DONE else "refused_here",
        )  # fmt: skip
        self.bus.publish(subjects.ack(self.name), ack.seal(self.identity.key))

    def _hear_bans(self, message: BusMessage) -> None:
        self._denied.put_nowait(open_deny_list(message.payload, self._public))


@contextlib.asynccontextmanager
async def patched_rack(identity: RackIdentity, cluster: str, public: bytes) -> AsyncIterator[PatchedRack]:
    """Connect an enrolled rack."""
    async with connected(rack_options(identity)) as bus:
        rack = PatchedRack(bus, identity, cluster, public)
        await rack.start()
        yield rack
