"""Connecting as a subscriber: an identity directory in, streams of verified records out."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

import structlog
from cryptography import x509

from stagebox import certificates, subjects, tls
from stagebox.bus import BUS_LIMITS, BusClient, BusLimits, BusOptions, BusStats, Subscription
from stagebox.errors import ConfigError, KeyFileError
from stagebox.subscriber.counters import Counters
from stagebox.subscriber.limits import SUBSCRIBER_LIMITS, SubscriberLimits
from stagebox.subscriber.patterns import checkpoint_pattern
from stagebox.subscriber.record import Record
from stagebox.subscriber.stream import OnBad, RecordStream, Verify
from stagebox.subscriber.trust import RackTrust

if TYPE_CHECKING:
    from stagebox.listening.listener import Listener

CERTIFICATE_FILE = "client.crt"
KEY_FILE = "client.key"
ROOTS_FILE = "ca.pem"


@dataclass(eq=False)
class _Open:
    stream: RecordStream
    subscriptions: list[Subscription]


class Subscriber:
    """Reads records from the bus and proves them. Use :func:`connect`, or give a BusClient of your own.

    A BusClient given here is started and closed by the subscriber.
    """

    def __init__(
        self,
        bus: BusClient,
        roots: Sequence[x509.Certificate],
        *,
        limits: SubscriberLimits = SUBSCRIBER_LIMITS,
        mixer: str | None = None,
        identity: Path | None = None,
    ) -> None:
        self._bus = bus
        self._mixer = mixer
        self._identity = identity
        self._limits = limits
        self._trust = RackTrust(roots, limits)
        self._open: set[_Open] = set()
        self._past = Counters()

    async def __aenter__(self) -> Subscriber:
        await self._bus.start()
        try:
            await self._bus.wait_connected(self._limits.connect_within)
        except BaseException:
            await self._bus.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for opened in list(self._open):
            await self._end(opened)
        await self._bus.close()

    @property
    def counters(self) -> Counters:
        """The counts over all streams of this subscriber, ended ones included."""
        total = Counters()
        total.add(self._past)
        for opened in self._open:
            total.add(opened.stream.counters)
        return total

    @property
    def bus(self) -> BusClient:
        """The bus client underneath."""
        return self._bus

    def bus_stats(self) -> BusStats:
        """The counters of the connection."""
        return self._bus.stats()

    @contextlib.asynccontextmanager
    async def open_records(
        self, pattern: str, *, verify: Verify = True, on_bad: OnBad = "raise"
    ) -> AsyncIterator[RecordStream]:
        """Subscribe to ``pattern`` and yield the stream; see :meth:`records` for the arguments.

        Inside the ``async with`` the subscription stands, so nothing published from then on is missed.

        Raises:
            InputError: the pattern does not select records of racks.
            BusError: the server does not permit it.
        """
        opened = await self._begin(pattern, verify, on_bad)
        try:
            yield opened.stream
        finally:
            await self._end(opened)

    async def records(
        self, pattern: str, *, verify: Verify = True, on_bad: OnBad = "raise"
    ) -> AsyncIterator[Record]:
        """Iterate over the records that ``pattern`` selects, for instance ``rack.*.meter.>``.

        ``verify=True`` hands a record out when it is proved, or marked UNVERIFIABLE if no proof came in time
        (about a second behind live); ``"live"`` hands it out at once as PENDING and settles it later;
        False marks everything UNVERIFIED. ``on_bad="raise"`` raises VerificationError where a record or
        checkpoint is not the rack's, ``"count"`` drops and counts it.

        Raises:
            InputError: the pattern does not select records of racks.
            BusError: the server does not permit it.
            VerificationError: with ``on_bad="raise"``; iterating again goes on with a new subscription.
        """
        async with self.open_records(pattern, verify=verify, on_bad=on_bad) as stream:
            async for record in stream:
                yield record

    @contextlib.asynccontextmanager
    async def listen(
        self,
        rack: str,
        *,
        bus: str = "main",
        latency_ms: float | None = None,
        verify: Literal[True, False] = True,
    ) -> AsyncIterator[Listener]:
        """Listen to a monitor bus: yields an asynchronous iterator of :class:`stagebox.listening.listener.AudioBlock`.

        The rack sends the bus because of the lease that is held inside the ``async with``. A block comes ``latency_ms``
        (60 by default) after its packet at the latest. Audio is handed out before its proof can be there; with
        ``verify``, a packet that turns out not to be the rack's ends the iteration with VerificationError.

        Raises:
            ConfigError: the mixer's address is not known, or the extra ``stagebox[listen]`` is not installed.
            StageboxError: the mixer or the rack refuses.
        """
        from stagebox.listening.limits import LISTEN_LIMITS

        _require_codec()
        from stagebox.listening.decoding import OpusDecoder
        from stagebox.listening.lease import LeaseHolder
        from stagebox.listening.listener import Listener

        # Loading the codec takes longer than the jitter buffer holds: not while packets come in.
        await asyncio.to_thread(OpusDecoder, 2)

        wanted = LISTEN_LIMITS.latency_ms if latency_ms is None else latency_ms
        if not LISTEN_LIMITS.latency_min_ms <= wanted <= LISTEN_LIMITS.latency_max_ms:
            raise ConfigError(
                f"a latency of {wanted:g} ms is out of range",
                remedy=f"use {LISTEN_LIMITS.latency_min_ms:g} to {LISTEN_LIMITS.latency_max_ms:g} ms",
            )
        if self._mixer is None or self._identity is None:
            raise ConfigError(
                "listening needs the mixer's API, and this subscriber does not know it",
                remedy='give stagebox.connect(…, mixer="https://…")',
            )
        lease = LeaseHolder(self._mixer, self._identity, rack, bus)
        async with self.open_records(
            subjects.audio(rack, bus), verify="live" if verify else False, on_bad="raise"
        ) as stream:
            listener = Listener(stream, lease, rack=rack, bus=bus, latency_ms=wanted)
            try:
                await lease.take()
                listener.begin()
                yield listener
            finally:
                await listener.end()
                await lease.release()

    async def _begin(self, pattern: str, verify: Verify, on_bad: OnBad) -> _Open:
        proofs = checkpoint_pattern(pattern)
        stream = RecordStream(pattern, self._trust, verify=verify, on_bad=on_bad, limits=self._limits)
        opened = _Open(stream, [])
        try:
            if verify and proofs is not None:
                opened.subscriptions.append(await self._bus.subscribe(proofs, stream.take_checkpoint))
            opened.subscriptions.append(await self._bus.subscribe(pattern, stream.take))
        except BaseException:
            for subscription in opened.subscriptions:
                await self._bus.unsubscribe(subscription)
            raise
        self._open.add(opened)
        return opened

    async def _end(self, opened: _Open) -> None:
        if opened not in self._open:
            return
        self._open.discard(opened)
        opened.stream.end()
        for subscription in opened.subscriptions:
            await self._bus.unsubscribe(subscription)
        counted = opened.stream.counters
        counted.unverifiable += counted.pending  # nothing will prove them any more
        counted.pending = 0
        self._past.add(counted)


def connect(
    servers: str | Sequence[str],
    identity: str | Path,
    *,
    name: str = "stagebox-subscriber",
    mixer: str | None = None,
    limits: SubscriberLimits = SUBSCRIBER_LIMITS,
    bus_limits: BusLimits = BUS_LIMITS,
) -> Subscriber:
    """Return a subscriber for ``async with``.

    ``servers`` are addresses such as ``wss://mixer:4222``; ``identity`` is a directory with ``client.crt``,
    ``client.key`` and ``ca.pem``, as ``stagebox keys gen-client`` writes it. Entering connects, and raises
    BusError or TlsError with the cause when that fails. ``mixer`` is the base URL of the mixer's API, which listening
    needs; port 8443 of the first server's host unless given.

    Raises:
        KeyFileError, TlsError: the identity cannot be used.
        ConfigError: a server address is malformed or plaintext.
    """
    if not structlog.is_configured():
        # A program that never set up logging must not find our lines on its standard output.
        structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    directory = Path(identity)
    if not directory.is_dir():
        raise ConfigError(
            f"{directory} is not an identity directory",
            remedy=f"give the directory with {CERTIFICATE_FILE}, {KEY_FILE} and {ROOTS_FILE}",
        )
    roots_path = directory / ROOTS_FILE
    try:
        roots_pem = roots_path.read_bytes()
    except OSError as error:
        raise KeyFileError(
            f"cannot read {roots_path}: {error.strerror}", remedy="make the identity again"
        ) from None
    context = tls.client_context(roots_pem, directory / CERTIFICATE_FILE, directory / KEY_FILE)
    options = BusOptions(
        servers=(servers,) if isinstance(servers, str) else tuple(servers),
        name=name,
        ssl_context=context,
        give_up_after=limits.connect_within,
        limits=bus_limits,
    )
    return Subscriber(
        BusClient(options),
        certificates.load_certificates(roots_path),
        limits=limits,
        mixer=mixer if mixer is not None else _api_of(options.servers[0]),
        identity=directory,
    )


def _api_of(server: str) -> str:
    """The base URL of the API of a mixer whose snake is ``server``, if it has its usual port."""
    host = urlsplit(server).hostname or "localhost"
    return f"https://[{host}]:8443" if ":" in host else f"https://{host}:8443"


def _require_codec() -> None:
    for module in ("av", "numpy"):
        if importlib.util.find_spec(module) is None:
            raise ConfigError(
                f"listening needs the Python module {module!r}, which is not installed",
                remedy="pip install 'stagebox[listen]'",
            )
