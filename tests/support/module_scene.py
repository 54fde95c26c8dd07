"""A rack's module service with what it touches: a mixer that answers as a test wants it, and hosts that only note.

The files, the signatures and the state directory are real; the clock, the snake and the hosts are not.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nacl.signing import SigningKey

from stagebox import envelope
from stagebox.bus.message import BusMessage
from stagebox.control.command import Command
from stagebox.control.denylist import DenyList, denied
from stagebox.control.request import ReceivedRequest
from stagebox.errors import BusError
from stagebox.modules.limits import LIMITS as FORMAT
from stagebox.modules.patch import Insert, PatchSheet, Point
from stagebox.tasks import end_tasks
from stagebox_rack.asking import MixerDesk
from stagebox_rack.identity.denied import DenyListWitness
from stagebox_rack.limits import LIMITS
from stagebox_rack.modules.arranging import Placed, Running
from stagebox_rack.modules.fetching import ModuleFetcher
from stagebox_rack.modules.guard import Guard
from stagebox_rack.modules.judging import Judge
from stagebox_rack.modules.library import ModuleLibrary
from stagebox_rack.modules.serials import SerialFloors
from stagebox_rack.modules.service import ModuleService
from stagebox_rack.modules.sheet_store import SheetStore
from stagebox_rack.modules.supply import ModuleSupply
from stagebox_rack.modules.trusted_time import TrustedTime
from support.issuer import CLUSTER, RACK, Issuer
from support.modules import NOW, countersigned_module, signed_module

QUICK = replace(
    LIMITS, module_check=0.05, module_retry=0.01, module_bridge=5.0, module_retry_first=0.01,
    module_retry_max=0.05, module_fetch_tries=3, module_fetch_retry=0.05, module_refetch=60.0,
)  # fmt: skip
ISSUER = Issuer()


def module(*, version: str = "1.0.0", name: str = "gain", **changes: Any) -> bytes:
    """Return a module that the scene's cluster countersigned."""
    signed = signed_module(name=name, version=version)
    return countersigned_module(signed, **{"key": ISSUER.authority, "cluster": CLUSTER, **changes})


def insert(data: bytes, insert_id: str = "eq", **changes: Any) -> Insert:
    """Return an insert that asks for exactly these bytes, before the meters of ``main``."""
    made = Insert(
        id=insert_id, module="gain", version="1.0.0", digest=hashlib.sha256(data).digest(), size=len(data),
        point=Point.METERS, source="main",
    )  # fmt: skip
    return replace(made, **changes)


def sheet(serial: int, *inserts: Insert, key: SigningKey | None = None, **changes: Any) -> bytes:
    """Return a signed patch sheet of the scene's rack."""
    made = replace(PatchSheet(CLUSTER, RACK, NOW + serial, inserts), **changes)
    return envelope.seal(envelope.DOMAIN_PATCH, made.encode(), key or ISSUER.authority)


def deny_list(epoch: int, kind: str = "", value: str = "", *, time_ns: int = 0) -> bytes:
    """Return a signed deny list with at most one ban."""
    entries = (denied(kind, value),) if kind else ()
    made = DenyList(CLUSTER, epoch, time_ns, entries)
    return envelope.seal(envelope.DOMAIN_DENY_LIST, made.encode(), ISSUER.authority)


class Mixer:
    """The snake and what answers on it. ``files`` by digest are given out; ``sheet`` is the newest it has."""

    def __init__(self) -> None:
        self.connected = True
        self.sheet = b""
        self.files: dict[bytes, bytes] = {}
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.reply: dict[str, dict[str, Any]] = {"patch": {}, "module": {}}
        self.failing = 0
        self.open = asyncio.Event()  # pieces are given while it is set
        self.open.set()
        self.time_ns = 0

    def has(self, *files: bytes) -> None:
        self.files |= {hashlib.sha256(data).digest(): data for data in files}

    async def request(self, subject: str, payload: bytes, *, timeout: float) -> BusMessage:
        received = ReceivedRequest.parse(payload)
        verb, body = received.request.verb, received.request.body
        assert subject == f"rack.{RACK}.req.{verb}"
        self.asked.append((verb, body))
        await asyncio.sleep(0)  # as any bus would: whoever asks without end still lets a test's time run out
        if not self.connected:
            raise BusError("the bus is not connected")
        if verb == "module":
            await self.open.wait()
        if self.failing:
            self.failing -= 1
            raise BusError("no answer")
        given = {"body": self._answer(verb, body), "time_ns": self.time_ns, **self.reply[verb]}
        return BusMessage("", ISSUER.reply(payload, **given), "", None)

    def pieces(self) -> list[int]:
        """The offsets that were asked for."""
        return [body["Offset"] for verb, body in self.asked if verb == "module"]

    def _answer(self, verb: str, body: dict[str, Any]) -> dict[str, Any]:
        if verb == "patch":
            return {"Sheet": self.sheet}
        data = self.files.get(body["Digest"])
        if data is None:
            return {}
        offset = body["Offset"]
        return {"Size": len(data), "Data": data[offset : offset + FORMAT.module_chunk_bytes]}


@dataclass
class Hosts:
    """The hosts as the service sees them: what they were given, and nothing is compiled."""

    calls: list[tuple[Placed, ...]] = field(default_factory=list)
    facts: dict[str, Running] = field(default_factory=dict)
    failing: int = 0
    before: Callable[[tuple[Placed, ...]], None] = lambda _wanted: None
    open: asyncio.Event = field(default_factory=asyncio.Event)  # they work while it is set
    obeying: asyncio.Event = field(default_factory=asyncio.Event)  # and let go while it is
    asked: int = 0

    def __post_init__(self) -> None:
        self.open.set()
        self.obeying.set()

    async def arrange(self, wanted: tuple[Placed, ...]) -> None:
        self.asked += 1
        await self.open.wait()
        if self.failing:
            self.failing -= 1
            raise RuntimeError("a host that cannot be started")
        self.before(wanted)
        self.calls.append(wanted)

    async def withdraw(self, gone: Collection[Placed]) -> None:
        if not self.obeying.is_set():
            await self.obeying.wait()
        self.calls.append(tuple(one for one in self.now if one not in gone))

    def running(self) -> Mapping[str, Running]:
        return self.facts

    @property
    def now(self) -> tuple[Placed, ...]:
        return self.calls[-1] if self.calls else ()

    @property
    def versions(self) -> dict[str, str]:
        """The versions that run, by insert."""
        return {placed.insert.id: placed.module.version for placed in self.now}

    @property
    def given(self) -> set[bytes]:
        """The digest of every file that was ever given to a host."""
        return {hashlib.sha256(placed.module.data).digest() for call in self.calls for placed in call}


class Scene:
    """One rack; ``wall`` is its clock, in ns."""

    def __init__(self, directory: Path) -> None:
        identity = Issuer.enroll(ISSUER, directory).open().main
        self.paths = identity.paths
        self.identity = identity
        self.mixer = Mixer()
        self.hosts = Hosts()
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.alerts: list[tuple[str, dict[str, Any]]] = []
        self.wall = NOW
        self.tasks: list[asyncio.Task[None]] = []
        self.active = True
        self.limits = QUICK

    @property
    def modules(self) -> Path:
        return self.paths.modules

    def make(self) -> None:
        """Make what a start of the rack makes."""
        directory, public = self.modules, ISSUER.public
        self.witness = DenyListWitness(self.paths.denied, cluster=CLUSTER, cluster_public=public)
        self.clock = TrustedTime(directory / "time.cbor", lambda: self.wall)
        self.sheets = SheetStore(directory / "patch.cbor", cluster=CLUSTER, cluster_public=public, rack=RACK)
        self.library = ModuleLibrary(directory)
        self.floors = SerialFloors(directory / "serials.cbor", cluster=CLUSTER, rack=RACK)
        desk = MixerDesk(
            self.mixer,
            lambda: self.identity,
            timeout=LIMITS.module_request_timeout,
            heard=self.clock.heard,
            wall_ns=lambda: self.wall,
        )
        self.supply = ModuleSupply(
            desk,
            ModuleFetcher(desk, limits=self.limits),
            serial=lambda: self.sheets.serial,
            limits=self.limits,
        )
        self.service = ModuleService(
            sheets=self.sheets,
            judge=Judge(Guard(CLUSTER, public), self.library, self.floors),
            supply=self.supply,
            clock=self.clock,
            denials=self.witness,
            arranger=self.hosts,
            event=lambda name, detail: self.events.append((name, detail)),
            alert=lambda name, detail: self.alerts.append((name, detail)),
            active=self.active,
            limits=self.limits,
        )
        self.witness.on_newer(self.service.denied_changed)

    async def start(self) -> None:
        self.make()
        self.witness.load()
        await self.service.start()
        self.tasks = [asyncio.create_task(work, name=name) for name, work in self.service.work()]

    async def stop(self) -> None:
        await end_tasks(self.tasks)
        for task in self.tasks:
            assert task.cancelled(), task
        await self.service.stop()

    async def restart(self) -> None:
        """Stop and start again, with hosts that know of nothing."""
        await self.stop()
        self.hosts = Hosts()
        self.alerts, self.events = [], []
        await self.start()

    async def command(self, data: object) -> None:
        """Hand over a patch command as the command service does."""
        made = Command(CLUSTER, RACK, 1, NOW, NOW + 1, "patch", {"Sheet": data})
        await self.service.handlers()["patch"](made)

    async def deny(self, data: bytes) -> None:
        """Hand over a deny list as the sync service does."""
        await asyncio.to_thread(self.witness.offer, data)

    async def until(self, condition: Callable[[], object], timeout: float = 10.0) -> None:
        try:
            async with asyncio.timeout(timeout):
                while not condition():  # noqa: ASYNC110 - any condition
                    await asyncio.sleep(0.002)
        except TimeoutError:
            facts = [(fact["insert"], fact["state"], fact["code"]) for fact in self.service.status()]
            raise AssertionError(
                f"waited {timeout:g} s in vain: inserts {facts}, on hosts {self.hosts.versions}, alerts {self.alerts}"
            ) from None

    async def runs(self, **versions: str) -> None:
        """Wait until exactly these versions run, by insert."""
        await self.until(lambda: self.hosts.versions == versions)

    async def a_pass(self) -> None:
        """Wait until what was said so far has been looked at."""
        await self.service._settle({})

    def told(self, name: str) -> list[tuple[str, str]]:
        """The insert and code of each alert of a name."""
        return [(detail["insert"], detail["code"]) for alert, detail in self.alerts if alert == name]

    def state(self, insert_id: str = "eq") -> tuple[str, str]:
        """What a heartbeat says of an insert: state and code."""
        fact = next(fact for fact in self.service.status() if fact["insert"] == insert_id)
        return fact["state"], fact["code"]


@contextlib.asynccontextmanager
async def module_scene(directory: Path) -> AsyncIterator[Scene]:
    """Run a rack's module service until the end of the block."""
    scene = Scene(directory)
    await scene.start()
    try:
        yield scene
    finally:
        scene.mixer.open.set()
        scene.hosts.open.set()
        scene.hosts.obeying.set()
        await scene.stop()
