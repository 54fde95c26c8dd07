"""Who belongs to the cluster, wired: deny list, lifecycle, enrollment, admission, enforcement, commands, requests,
and the modules that racks run.

Part of the composition root. The order matters: the deny list is known before anybody is admitted, and requests
are taken only when there is somebody to answer them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import structlog

from stagebox import subjects
from stagebox.bus import BusClient
from stagebox.control.denylist import DenyList
from stagebox.control.request import Verb
from stagebox.errors import StageboxError
from stagebox.tasks import end_tasks
from stagebox_keys.mixer_keys import MixerKeys
from stagebox_mixer import streams
from stagebox_mixer.admission.callout import Callout
from stagebox_mixer.admission.enforcement import Enforcer
from stagebox_mixer.admission.policy import Trust
from stagebox_mixer.admission.sessions import Sessions
from stagebox_mixer.api.tally import TalliedAudit
from stagebox_mixer.audit import Audit
from stagebox_mixer.commands.delivery import PassportDelivery
from stagebox_mixer.commands.service import Commands
from stagebox_mixer.connections import Connections
from stagebox_mixer.denial import Denials
from stagebox_mixer.enrollment.service import EnrollmentService
from stagebox_mixer.enrollment.shared_token import load_shared_token
from stagebox_mixer.lifecycle.expiry import ExpirySweep
from stagebox_mixer.lifecycle.machine import Terms
from stagebox_mixer.lifecycle.service import LifecycleService
from stagebox_mixer.listening.service import Listening
from stagebox_mixer.modules.importing import prove
from stagebox_mixer.modules.service import ModuleService
from stagebox_mixer.nats import credentials
from stagebox_mixer.nats.credentials import BusUser
from stagebox_mixer.presence.service import PresenceService
from stagebox_mixer.registry.store import Registry
from stagebox_mixer.requests import RequestDesk
from stagebox_mixer.settings import MixerSettings

log = structlog.get_logger()

Connect = Callable[[str, BusUser], Awaitable[BusClient]]
"""Connects a user of the mixer's own to the bus; the connection ends with the mixer."""


class Membership:
    """The services that decide about identities, and the connections they use."""

    def __init__(
        self, *, settings: MixerSettings, keys: MixerKeys, store: BusClient, registry: Registry, audit: Audit
    ) -> None:
        self._keys = keys
        self._audit = audit
        self._settings = settings
        self._store = store
        self._tasks: set[asyncio.Task[None]] = set()
        self.registry = registry
        self.tally = TalliedAudit(audit)
        self.terms = Terms(
            certificate_days=settings.rack_certificate_days,
            grace_days=settings.grace_days,
            grace_uses=settings.grace_uses,
        )
        self.denials = Denials(keys, lambda: store.js, audit, settings.witness)
        self.lifecycle = LifecycleService(
            keys=keys, registry=registry, audit=self.tally, denials=self.denials, terms=self.terms
        )
        self.enrollment = EnrollmentService(
            keys=keys,
            registry=registry,
            audit=self.tally,
            denials=self.denials,
            auto_approve=settings.auto_approve,
            terms=self.terms,
            shared_token=load_shared_token(settings),
        )
        self.expiry = ExpirySweep(registry=registry, audit=audit, terms=self.terms)

    async def start(self, connect: Connect, stop: AsyncExitStack, *, now_s: int) -> None:
        """Start everything; ``stop`` undoes it.

        Raises:
            StageboxError: something cannot start.
        """
        await self.denials.start()
        nats = self._keys.nats
        self._live = await connect("live", credentials.live_user(nats, now_s=now_s))
        self.connections = Connections(
            await connect("system", credentials.system_user(nats, now_s=now_s)), nats.stagebox.id
        )
        self._sessions = Sessions()
        self.enforcer = Enforcer(
            connections=self.connections,
            registry=self.registry,
            denials=self.denials,
            sessions=self._sessions,
        )
        stop.push_async_callback(self.enforcer.close)
        self.lifecycle.changed = self.enforcer.soon
        self.denials.changed = self._deny_list_changed
        stop.push_async_callback(self._end_announcements)
        await self._start_commands(stop)
        await self._start_callout(await connect("callout", credentials.callout_user(nats, now_s=now_s)), stop)

    async def _start_commands(self, stop: AsyncExitStack) -> None:
        self.commands = commands = Commands(
            bus=self._live,
            authority=self._keys.authority,
            cluster=self._keys.cluster.name,
            registry=self.registry,
            audit=self._audit,
        )
        await commands.start()
        stop.push_async_callback(commands.stop)
        self.listening = Listening(commands=commands, audit=self._audit)
        stop.push_async_callback(self.listening.stop)
        self.presence = PresenceService(self._live)
        await self.presence.start()
        stop.push_async_callback(self.presence.stop)
        delivery = PassportDelivery(
            commands=commands, registry=self.registry, pending_passport=self.lifecycle.pending_passport
        )
        stop.push_async_callback(delivery.stop)
        self.lifecycle.deliver = delivery.deliver
        await self._start_modules(stop)
        desk = RequestDesk(
            bus=self._live,
            audit=self._audit,
            handlers={
                Verb.RENEW: lambda data, host: self.lifecycle.renew(data, via="snake", host=host),
                Verb.SYNC: lambda data, host: self.lifecycle.sync(data, host=host),
                Verb.DENY_LIST: lambda data, host: self.lifecycle.deny_list(data, host=host),
                **self.modules.handlers,
            },
        )
        await desk.start()
        stop.push_async_callback(desk.stop)

    async def _start_modules(self, stop: AsyncExitStack) -> None:
        self.modules = ModuleService(
            keys=self._keys,
            vendor_keys=self._settings.vendor_keys,
            store=self._store,
            live=self._live,
            registry=self.registry,
            denials=self.denials,
            audit=self._audit,
            commands=self.commands,
            connections=self.connections,
            prove=prove,
        )
        await self.modules.start()
        stop.push_async_callback(self.modules.stop)

    async def _start_callout(self, bus: BusClient, stop: AsyncExitStack) -> None:
        self.callout = Callout(
            bus=bus,
            keys=self._keys.nats,
            trust=Trust(
                cluster=self._keys.cluster.name,
                roots=(self._keys.issuing.root,),
                wal_stream=streams.WAL_STREAM,
            ),
            registry=self.registry,
            audit=self._audit,
            denials=self.denials,
            confirm=self.lifecycle.confirm,
            sessions=self._sessions,
        )
        await self.callout.start()
        stop.push_async_callback(self.callout.stop)

    def background(self) -> dict[str, Any]:
        """Return the work that goes on for ever, by name, to be run by the mixer."""
        return {
            "enforcement": self.enforcer.run(),
            "expiry": self.expiry.run(),
            "listening": self.listening.run(),
            "presence": self.presence.run(),
            "modules": self.modules.run(),
        }

    def _deny_list_changed(self, _now: DenyList) -> None:
        self.enforcer.soon()
        task = asyncio.create_task(self._announce(), name="deny-list-announcement")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _announce(self) -> None:
        """Tell every connected rack, so that it keeps the newest list as a witness."""
        try:
            self._live.publish(subjects.DENY_LIST, await self.denials.signed())
        except StageboxError as error:
            log.warning("deny_list_not_announced", error=error.message)

    async def _end_announcements(self) -> None:
        await end_tasks(self._tasks)
