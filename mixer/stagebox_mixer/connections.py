"""The live connections of the whole NATS cluster: who is there, and ending those that must not be.

The system account asks every server at once and takes each answer as it comes, so that a connection ends a few
milliseconds after somebody wants it to, however slow another server is. An answer missing from a server that the
others count as running is an error: nothing may be taken for ended that was not seen.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from stagebox.bus import BusClient, BusMessage
from stagebox.errors import BusError, DecodeError
from stagebox_mixer.limits import LIMITS

_PING_CONNECTIONS = "$SYS.REQ.SERVER.PING.CONNZ"
_PING_STATISTICS = "$SYS.REQ.SERVER.PING.STATSZ"
_GONE = "no such client"


@dataclass(frozen=True)
class LiveConnection:
    """One connection on one server. ``user`` is the name the callout gave it.

    ``certificate`` is the fingerprint ``sha256:<hex>`` of the TLS client certificate, empty without one.
    """

    server_id: str
    cid: int
    user: str
    certificate: str


@dataclass(frozen=True)
class Page:
    """One server's answer: connections ordered by ``cid``, from position ``offset`` of its list on."""

    server_id: str
    offset: int
    connections: tuple[LiveConnection, ...]


@dataclass
class Pages:
    """How far one server's list was read. Pure.

    Positions shift while the list is read, for connections end. So pages overlap; one that does not begin at or
    before the last connection seen may have skipped some, and the reading steps back.
    """

    limit: int
    overlap: int
    last_cid: int = 0

    def next_offset(self, page: Page) -> int | None:
        """Take a page; return where to read on, or None if everything was seen."""
        first = page.connections[0].cid if page.connections else None
        if page.offset and (first is None or first > self.last_cid):
            return max(0, page.offset - self.limit // 2)
        if page.connections:
            self.last_cid = max(self.last_cid, page.connections[-1].cid)
        if len(page.connections) < self.limit:
            return None
        return page.offset + self.limit - self.overlap


@dataclass
class _Scan:
    """One question to all servers, while its answers come in."""

    answers: asyncio.Queue[tuple[str, bytes]] = field(default_factory=asyncio.Queue)
    servers: int = 0
    reading: dict[str, Pages] = field(default_factory=dict)
    finished: set[str] = field(default_factory=set)
    seen: set[tuple[str, int]] = field(default_factory=set)

    @property
    def complete(self) -> bool:
        return 0 < self.servers <= len(self.finished)

    def take(self, page: Page) -> list[LiveConnection]:
        """Return the connections of a page that no page before had."""
        new = [item for item in page.connections if (item.server_id, item.cid) not in self.seen]
        self.seen |= {(item.server_id, item.cid) for item in new}
        return new


class Connections:
    """Looks at and ends connections of ``account`` through ``bus``, a user of the system account."""

    def __init__(self, bus: BusClient, account: str, *, page: int = LIMITS.connections_page) -> None:
        self._bus = bus
        self._account = account
        self._limit = page
        self._overlap = min(LIMITS.connections_overlap, page // 2)
        self._inbox = f"_INBOX.connections.{secrets.token_hex(8)}"
        self._scans: dict[str, _Scan] = {}
        self._numbers = itertools.count(1)
        self._subscribed: asyncio.Task[None] | None = None

    async def live(self, user: str | None = None) -> list[LiveConnection]:
        """Return every connection, or those of ``user``.

        Raises:
            BusError: not every server answered.
        """
        found: list[LiveConnection] = []
        await self._scan(user, found.append)
        return found

    async def kick(self, match: Callable[[LiveConnection], bool], *, user: str | None = None) -> int:
        """End every connection (of ``user``) that ``match`` picks, each as soon as it is seen; return how many.

        Raises:
            BusError: not every server answered, or one refused. What could be ended was.
        """
        ending: list[asyncio.Task[bool]] = []

        def visit(connection: LiveConnection) -> None:
            if match(connection):
                ending.append(asyncio.create_task(self.end(connection), name="kick"))

        try:
            await self._scan(user, visit)
        finally:
            results = await asyncio.gather(*ending, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return sum(result is True for result in results)

    async def end(self, connection: LiveConnection) -> bool:
        """End one connection; False if it had ended already.

        Raises:
            BusError: its server refused or did not answer.
        """
        subject = f"$SYS.REQ.SERVER.{connection.server_id}.KICK"
        answer = await self._bus.request(
            subject, json.dumps({"cid": connection.cid}).encode(), timeout=LIMITS.kick_wait_s
        )
        error = _fields(answer.payload).get("error")
        if error is None:
            return True
        description = str(error.get("description", "")) if isinstance(error, dict) else str(error)
        if _GONE in description:
            return False
        raise BusError(f"server {connection.server_id} did not end a connection: {description}")

    async def _scan(self, user: str | None, visit: Callable[[LiveConnection], None]) -> None:
        """Call ``visit`` once for each connection, as the servers' answers come."""
        await self._listen()
        number, scan = str(next(self._numbers)), _Scan()
        self._scans[number] = scan
        try:
            self._ask(_PING_STATISTICS, number, "statistics", b"")
            self._ask(_PING_CONNECTIONS, number, "connections", self._query(user, 0))
            while not scan.complete:
                # Not wait_for: on Python 3.11 it swallows a cancellation that comes together with an answer.
                async with asyncio.timeout(LIMITS.connections_wait_s):
                    kind, payload = await scan.answers.get()
                if kind == "statistics":
                    scan.servers = max(scan.servers, parse_servers(payload))
                    continue
                page = parse_page(payload)
                for connection in scan.take(page):
                    visit(connection)
                self._read_on(scan, page, number, user)
        except TimeoutError:
            raise BusError(
                f"{len(scan.finished)} of {scan.servers or 'an unknown number of'} servers said who is connected",
                remedy="a server may be restarting or cut off; it is asked again",
            ) from None
        finally:
            del self._scans[number]

    def _read_on(self, scan: _Scan, page: Page, number: str, user: str | None) -> None:
        reading = scan.reading.setdefault(page.server_id, Pages(self._limit, self._overlap))
        offset = reading.next_offset(page)
        if offset is None:
            scan.finished.add(page.server_id)
        else:
            subject = f"$SYS.REQ.SERVER.{page.server_id}.CONNZ"
            self._ask(subject, number, "connections", self._query(user, offset))

    def _ask(self, subject: str, number: str, kind: str, query: bytes) -> None:
        if not self._bus.publish(subject, query, reply=f"{self._inbox}.{number}.{kind}"):
            raise BusError("the servers cannot be asked who is connected: the bus is not connected")

    def _query(self, user: str | None, offset: int) -> bytes:
        query: dict[str, object] = {
            "auth": True, "acc": self._account, "limit": self._limit, "offset": offset,
        }  # fmt: skip
        if user is not None:
            query["user"] = user
        return json.dumps(query).encode()

    async def _listen(self) -> None:
        if self._subscribed is None:
            self._subscribed = asyncio.create_task(self._subscribe(), name="connections-inbox")
        await asyncio.shield(self._subscribed)

    async def _subscribe(self) -> None:
        await self._bus.subscribe(f"{self._inbox}.*.*", callback=self._on_answer)

    def _on_answer(self, message: BusMessage) -> None:
        *_, number, kind = message.subject.split(".")
        scan = self._scans.get(number)
        if scan is not None:
            scan.answers.put_nowait((kind, message.payload))


def parse_page(payload: bytes) -> Page:
    """Parse one CONNZ answer.

    Raises:
        BusError: the server says that it cannot answer. DecodeError: malformed.
    """
    fields = _fields(payload)
    if "error" in fields:
        raise BusError(f"a server does not say who is connected: {fields['error']}")
    try:
        data = fields["data"]
        server_id, offset = data["server_id"], data["offset"]
        connections = tuple(_connection(server_id, item) for item in data["connections"] or ())
    except (KeyError, TypeError, AttributeError, IndexError):
        raise DecodeError("a server's list of connections is malformed") from None
    if not isinstance(server_id, str) or not isinstance(offset, int):
        raise DecodeError("a server's list of connections is malformed")
    return Page(server_id, offset, connections)


def parse_servers(payload: bytes) -> int:
    """Return how many servers the sender of a STATSZ answer knows to be running, itself included.

    Raises:
        DecodeError: malformed.
    """
    statistics = _fields(payload).get("statsz")
    count = statistics.get("active_servers") if isinstance(statistics, dict) else None
    if not isinstance(count, int) or count < 1:
        raise DecodeError("a server's statistics are malformed")
    return count


def _connection(server_id: str, item: dict[str, Any]) -> LiveConnection:
    certificates = item.get("tls_peer_certs") or ()
    return LiveConnection(
        server_id=server_id,
        cid=int(item["cid"]),
        user=str(item.get("authorized_user", "")),
        certificate=f"sha256:{certificates[0]['cert_sha256']}" if certificates else "",
    )


def _fields(payload: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(payload)
    except ValueError:
        raise DecodeError("a server's answer is not JSON") from None
    if not isinstance(fields, dict):
        raise DecodeError("a server's answer is not a JSON object")
    return fields
