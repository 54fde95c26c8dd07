"""Both ends of the command path around a real nats-server: the mixer's service, and a rack that notes what it does."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nacl.signing import SigningKey

from stagebox import envelope, subjects
from stagebox.bus import BusClient
from stagebox.control.command import Ack, Command, CommandVerb, open_ack
from stagebox.passport import PassportStatus
from stagebox_mixer.audit import Audit
from stagebox_mixer.commands.service import Commands
from stagebox_mixer.limits import LIMITS as MIXER
from stagebox_mixer.registry.model import PendingIssue, RackEntry
from stagebox_mixer.registry.store import Registry
from stagebox_mixer.streams import AUDIT_STREAM
from stagebox_rack.commands.service import CommandService, Handler
from stagebox_rack.limits import LIMITS as RACK_LIMITS
from support.cluster import Cluster
from support.operator_bus import OperatorBus, operator_bus
from support.rackside import until

RACK = "stage-left"
QUICK = replace(MIXER, command_resend_s=0.05, command_ack_grace_s=0.05, refusal_window_s=0.05)
BOOT = bytes(range(16))


@dataclass
class Rackside:
    """A rack's command service with what it did and said."""

    bus: BusClient
    cluster: Cluster
    path: Path
    key: SigningKey = field(default_factory=SigningKey.generate)
    name: str = RACK
    done: list[Command] = field(default_factory=list)
    acks: list[Ack] = field(default_factory=list)
    alerts: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    service: CommandService | None = None

    async def status(self, command: Command) -> None:
        self.done.append(command)

    def publish_ack(self, data: bytes) -> None:
        self.acks.append(open_ack(data, bytes(self.key.verify_key)))
        self.bus.publish(subjects.ack(self.name), data)

    async def start(self, **handlers: Handler) -> CommandService:
        self.service = CommandService(
            bus=self.bus,
            path=self.path,
            cluster=self.cluster.name,
            cluster_public=self.cluster.keys.authority.public,
            rack=self.name,
            boot=BOOT,
            key=lambda: self.key,
            handlers=handlers or {CommandVerb.STATUS: self.status, CommandVerb.PASSPORT: self.status},
            publish_ack=self.publish_ack,
            event=lambda name, detail: self.events.append((name, detail)),
            alert=lambda name, detail: self.alerts.append((name, detail)),
            limits=replace(RACK_LIMITS, command_refusal_window=0.2),
        )
        await self.service.start()
        return self.service

    async def restart(self) -> CommandService:
        assert self.service is not None
        await self.service.stop()
        return await self.start()


@dataclass
class Scene:
    bus: OperatorBus
    live: BusClient
    store: BusClient
    registry: Registry
    audit: Audit
    commands: Commands
    rack: Rackside

    async def audit_rows(self, action: str) -> list[dict[str, Any]]:
        rows = []
        info = await self.store.js.stream_info(AUDIT_STREAM)
        for seq in range(1, info.state.last_seq + 1):
            row = json.loads((await self.store.js.get_msg(AUDIT_STREAM, seq=seq)).data or b"{}")
            if row["action"] == action:
                rows.append(row)
        return rows

    async def audited(self, action: str, **match: object) -> dict[str, Any]:
        found: list[dict[str, Any]] = []

        async def there() -> bool:
            rows = await self.audit_rows(action)
            found[:] = [row for row in rows if all(row[key] == value for key, value in match.items())]
            return bool(found)

        await until(there)
        return found[0]

    async def change(self, **fields: Any) -> RackEntry:
        stored = await self.registry.racks.get(RACK)
        assert stored is not None
        entry = replace(stored.entry, **fields)
        await self.registry.racks.put(RACK, entry, revision=stored.revision)
        return entry

    def sealed(self, **fields: Any) -> bytes:
        """Return a command that the authority signed and this mixer did not number."""
        now = time.time_ns()
        made = Command(self.bus.cluster.name, RACK, 1, now, now + 30_000_000_000, "status")
        authority = self.bus.cluster.keys.authority
        return authority.seal(envelope.DOMAIN_COMMAND, replace(made, **fields).encode())


@contextlib.asynccontextmanager
async def command_scene(cluster: Cluster, tmp_path: Path) -> AsyncIterator[Scene]:
    """Run a nats-server with both ends of the command path for one registered rack."""
    async with operator_bus(cluster, tmp_path / "nats") as bus:
        live, store = await bus.live(), await bus.store()
        registry, audit = Registry(lambda: store.js), Audit(lambda: store.js)
        rack = Rackside(await bus.rack(RACK, limited=True), cluster, tmp_path / "commands.cbor")
        entry = RackEntry(
            name=RACK, tenant="default", machine_id=1, rack_public=bytes(rack.key.verify_key),
            status=PassportStatus.ACTIVE, serial=1, secret_hash=bytes(32), certificate="",
            certificate_not_after=0, enrolled_at=0,
        )  # fmt: skip
        await registry.racks.put(RACK, entry, revision=None)
        commands = Commands(
            bus=live, authority=cluster.keys.authority, cluster=cluster.name, registry=registry, audit=audit,
            limits=QUICK,
        )  # fmt: skip
        await audit.start()
        await commands.start()
        try:
            yield Scene(bus, live, store, registry, audit, commands, rack)
        finally:
            await commands.stop()
            if rack.service is not None:
                await rack.service.stop()
            await audit.stop()


def pending(public: bytes, serial: int = 2) -> PendingIssue:
    return PendingIssue(
        rack_public=public, secret_hash=bytes(32), serial=serial, issued_at=1, passport_not_after=2,
        certificate="", certificate_der=b"", certificate_not_after=0, request=bytes(32),
    )  # fmt: skip
