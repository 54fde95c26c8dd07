"""The mixer's composition root: builds every part, starts them in order, stops them in reverse."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import signal
import socket
import ssl
import time
from collections.abc import Callable, Coroutine
from typing import Any

import structlog
from fastapi import FastAPI

from stagebox.bus import BusClient, BusOptions
from stagebox.errors import StageboxError
from stagebox.files import check_writable_dir, make_private_dir
from stagebox.identity import MixerId, check_name
from stagebox.keyfiles import signing_key
from stagebox.records.status import Status
from stagebox.systemd import Notifier
from stagebox.tasks import end_tasks
from stagebox.tls import load_identity, server_context
from stagebox_keys import nats_jwt
from stagebox_keys.mixer_keys import MixerKeys
from stagebox_keys.storage import JETSTREAM_LABEL, LAKE_LABEL, LEDGER_LABEL
from stagebox_mixer import streams
from stagebox_mixer.api.access import Access
from stagebox_mixer.api.app import make_app
from stagebox_mixer.api.server import ApiServer, bind, check_port_free
from stagebox_mixer.api.services import Counters, Services
from stagebox_mixer.audit import Audit, AuditReader, Row
from stagebox_mixer.ingest.consumer import Ingest
from stagebox_mixer.ingest.watch import JournalWatch
from stagebox_mixer.lake.lake import Lake
from stagebox_mixer.lake.migration import import_ledger
from stagebox_mixer.lake.storage import open_storage
from stagebox_mixer.limits import LIMITS
from stagebox_mixer.membership import Membership
from stagebox_mixer.nats import credentials
from stagebox_mixer.nats.config import Listener, NatsServerConfig
from stagebox_mixer.nats.credentials import BusUser
from stagebox_mixer.nats.server import NatsServer, Violation, find_executable
from stagebox_mixer.registry.store import Registry
from stagebox_mixer.server_certificate import ServerCertificate
from stagebox_mixer.settings import MixerSettings

log = structlog.get_logger()


class Mixer:
    """One running control plane."""

    def __init__(self, settings: MixerSettings, keys: MixerKeys) -> None:
        self._settings = settings
        self._keys = keys
        self._run_dir = settings.data / "run"
        self._exit = contextlib.AsyncExitStack()
        self._certificate = ServerCertificate(
            authority=keys.issuing,
            identity=MixerId(keys.cluster.name, check_name("mixer", settings.name)),
            names=settings.server_names(),
            directory=self._run_dir,
        )
        self._api_context: ssl.SSLContext | None = None
        self.https_port = settings.https_port
        self.nats: NatsServer | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._audit: Audit | None = None
        self._membership: Membership | None = None
        self._lake: Lake | None = None
        self._watch: JournalWatch | None = None
        self._ingest: Ingest | None = None
        self._api: ApiServer | None = None
        self._buses: list[BusClient] = []
        self._away_since: float | None = None

    @property
    def snake_port(self) -> int:
        """The port racks connect to."""
        return self.nats.config.snake.port if self.nats is not None else self._settings.snake_port

    async def start(self) -> None:
        """Start everything; when this returns, racks and people can connect.

        Raises:
            StageboxError: something cannot start; what had started is stopped again.
        """
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop everything in reverse order; what is acknowledged is durable."""
        await self._exit.aclose()

    async def _start(self) -> None:
        listener = await self._prepare()
        self.nats = await self._start_nats()
        now_s = int(time.time())
        bus = await self._connect("mixer", credentials.mixer_user(self._keys.nats, now_s=now_s))
        await streams.ensure(bus.js)
        registry = Registry(lambda: bus.js)
        make_private_dir(self._settings.witness)
        audit = Audit(lambda: bus.js, self._settings.witness / "audit.json")
        await audit.start()
        self._exit.push_async_callback(audit.stop)
        self._audit = audit
        lake = self._lake = await self._open_lake()
        # Before racks are let in: where the stream ends now tells whether it is an older copy put back.
        self._ingest = Ingest(bus=bus, registry=registry, lake=lake, audit=audit)
        await self._ingest.start()
        self._exit.push_async_callback(self._ingest.stop)
        members = Membership(
            settings=self._settings, keys=self._keys, store=bus, registry=registry, audit=audit
        )
        await members.start(self._connect, self._exit, now_s=now_s)
        self._membership = members
        watch = self._watch = JournalWatch(lake, audit)

        def heard(rack: str, status: Status) -> None:
            watch.heard(rack, status)
            members.modules.heard(rack, status)

        members.presence.heard = heard
        self._exit.push_async_callback(watch.stop)
        await self._start_api(listener, members, lake, audit, AuditReader(lambda: bus.js))
        for name, work in members.background().items():
            self._background(work, name)
        self._background(self._certificate.keep_fresh(self._reload_certificate), "server-certificate")
        self._background(self._trim_wal(bus, self._ingest), "wal-trim")
        self._background(self._tidy(lake), "lake-tidy")

    async def _open_lake(self) -> Lake:
        lake = Lake(
            open_storage(self._settings.lake_place),
            self._keys.storage_key(LAKE_LABEL),
            cluster=self._keys.cluster.name,
            keep_days=self._settings.lake_keep_days,
        )
        self._exit.push_async_callback(lake.close)
        await lake.open()
        ledger = self._settings.data / "ledger.sqlite"
        imported = await import_ledger(ledger, self._keys.storage_key(LEDGER_LABEL), lake)
        if imported:
            log.info("ledger_imported", batches=imported)
        return lake

    async def _prepare(self) -> socket.socket:
        settings = self._settings
        make_private_dir(settings.data)
        if settings.wasm_dir is None:  # one that is named may be root's
            make_private_dir(settings.vendor_keys)
        check_writable_dir(settings.data, "--data-dir")
        listener = bind(settings.https_host, settings.https_port, "--https-port")
        self._exit.callback(listener.close)
        self.https_port = int(listener.getsockname()[1])
        check_port_free(settings.snake_host, settings.snake_port, "--snake-port")
        self._certificate.issue(datetime.datetime.now(datetime.UTC))
        return listener

    async def _start_nats(self) -> NatsServer:
        keys, settings, files = self._keys.nats, self._settings, self._certificate.files
        accounts = (keys.system, keys.auth, keys.stagebox, keys.store)
        server = NatsServer(
            NatsServerConfig(
                server_name=f"{self._keys.cluster.name}-{settings.name}",
                operator_jwt=keys.operator_jwt,
                system_account=keys.system.id,
                accounts={account.id: account.jwt for account in accounts},
                sentinel_jwt=nats_jwt.sentinel_jwt(
                    keys.auth.signing, keys.auth.id, issued_s=int(time.time())
                ),
                store_dir=settings.data / "jetstream",
                ports_dir=self._run_dir,
                loopback=Listener("127.0.0.1", 0),
                snake=Listener(settings.snake_host, settings.snake_port),
                certificate=files.certificate,
                key=files.key,
                client_ca=files.roots,
            ),
            executable=find_executable(),
            config_path=self._run_dir / "nats-server.conf",
            jetstream_key=self._keys.storage_key(JETSTREAM_LABEL),
            on_violation=self._on_violation,
        )
        await server.start()
        self._exit.push_async_callback(server.stop)
        return server

    async def _connect(self, name: str, user: BusUser) -> BusClient:
        assert self.nats is not None
        key = signing_key(user.key.private)
        bus = BusClient(
            BusOptions(
                servers=(self.nats.loopback_url,),
                name=name,
                user_jwt=lambda: user.jwt,
                identity=lambda: key,
            )
        )
        await bus.start()
        self._buses.append(bus)
        self._exit.push_async_callback(bus.close)
        await bus.wait_connected(LIMITS.nats_ready_s)
        return bus

    async def _start_api(
        self, listener: socket.socket, members: Membership, lake: Lake, audit: Audit, reader: AuditReader
    ) -> None:
        files, issuing = self._certificate.files, self._keys.issuing
        access = Access(
            self._keys.cluster.name,
            (issuing.root,),
            (issuing.certificate,),
            denials=members.denials,
            audit=audit,
        )
        app: FastAPI = make_app(
            Services(
                enrollment=members.enrollment,
                lifecycle=members.lifecycle,
                registry=members.registry,
                lake=lake,
                denials=members.denials,
                enforcer=members.enforcer,
                connections=members.connections,
                commands=members.commands,
                listening=members.listening,
                presence=members.presence,
                modules=members.modules,
                audit=audit,
                audit_reader=reader,
                access=access,
                cluster=self._keys.cluster.name,
                roots_pem=issuing.root_pem,
                certificate_days=members.terms.certificate_days,
                snake_port=lambda: self.snake_port,
                health=self.health,
                counters=self.counters,
            )
        )
        # Enrollment comes without a certificate; every other route asks for one itself.
        context = server_context(
            issuing.root_pem, files.certificate, files.key, client_certificate=ssl.CERT_OPTIONAL
        )
        self._api_context = context
        self._api = server = ApiServer(app, listener, context)
        await server.start()
        self._exit.push_async_callback(server.stop)

    def healthy(self) -> bool:
        """Whether everything that must go on for ever still does; the watchdog is fed only then."""
        running = all(not task.done() for task in self._tasks)
        nats = self.nats is not None and self.nats.supervised
        ingest = self._ingest is not None and self._ingest.running
        api = self._api is not None and self._api.running
        return running and nats and ingest and api and self._on_the_bus()

    def _on_the_bus(self) -> bool:
        """Whether none of our users has been without a connection for long although the server runs."""
        now = time.monotonic()
        if self.nats is None or not self.nats.ready or all(bus.connected for bus in self._buses):
            self._away_since = None
        elif self._away_since is None:
            self._away_since = now
        return self._away_since is None or now - self._away_since < LIMITS.bus_away_s

    def counters(self) -> Counters:
        """Return what was counted since the start."""
        members, ingest, watch = self._membership, self._ingest, self._watch
        if members is None or ingest is None or watch is None:
            return Counters()
        return Counters(
            admitted=members.callout.admitted,
            refused=members.callout.refused,
            renewals=members.tally.done("renew", "renew_grace"),
            renewals_refused=members.tally.denied("renew"),
            grace_renewals=members.tally.done("renew_grace"),
            nats_restarts=self.nats.restarts if self.nats is not None else 0,
            wal_batches_committed=ingest.committed_batches,
            wal_batches_rejected=ingest.rejected_batches,
            journal_alarms=ingest.alarms + watch.alarms,
        )

    def health(self) -> dict[str, Any]:
        """Return what ``/healthz`` shows: no secrets, no names."""
        counted = self.counters()
        return {
            "status": "ok" if self.healthy() else "failing",
            "nats_restarts": counted.nats_restarts,
            "admitted": counted.admitted,
            "refused": counted.refused,
            "wal_batches_committed": counted.wal_batches_committed,
            "wal_batches_rejected": counted.wal_batches_rejected,
        }

    def _on_violation(self, violation: Violation) -> None:
        log.warning("subject_violation", user=violation.user, subject=violation.subject)
        if self._audit is not None:
            self._audit.refused(
                Row(
                    violation.user, violation.operation, violation.subject, "refused", "subject_not_permitted"
                )
            )

    def renew_server_certificate(self) -> None:
        """Issue a new server certificate now; new connections see it, live ones stay.

        Raises:
            StageboxError: it cannot be issued or stored; the old one stays in use.
        """
        self._certificate.issue(datetime.datetime.now(datetime.UTC))
        self._reload_certificate()

    def _reload_certificate(self) -> None:
        assert self.nats is not None
        assert self._api_context is not None
        load_identity(self._api_context, self._certificate.files.certificate, self._certificate.files.key)
        self.nats.reload()

    async def _trim_wal(self, bus: BusClient, ingest: Ingest) -> None:
        while True:
            await asyncio.sleep(LIMITS.wal_trim_every_s)
            try:
                await ingest.trim(bus.js)
            except StageboxError as error:
                log.warning("wal_trim_failed", error=error.message)

    async def _tidy(self, lake: Lake) -> None:
        while True:
            await asyncio.sleep(LIMITS.lake_tidy_s)
            await lake.tidy()

    def _background(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(_report_failure)
        self._tasks.append(task)

        async def end() -> None:
            await end_tasks([task])

        self._exit.push_async_callback(end)


def _report_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.error("task_failed", task=task.get_name(), error=repr(task.exception()))


async def run(settings: MixerSettings, keys: MixerKeys, on_ready: Callable[[Mixer], None]) -> None:
    """Run a mixer until SIGTERM or SIGINT.

    Raises:
        StageboxError: it cannot start.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    notifier = Notifier()
    started = time.monotonic()
    mixer = Mixer(settings, keys)
    try:
        await mixer.start()
        log.info(
            "mixer_ready",
            cluster=keys.cluster.name,
            https_port=mixer.https_port,
            snake_port=mixer.snake_port,
            after_ms=round((time.monotonic() - started) * 1000),
        )
        on_ready(mixer)
        notifier.notify("READY=1")
        watchdog = asyncio.create_task(notifier.watch(mixer.healthy), name="watchdog")
        await stopping.wait()
        notifier.notify("STOPPING=1")
        log.info("mixer_stopping")
        await end_tasks([watchdog])
    finally:
        await mixer.stop()
        log.info("mixer_stopped")
