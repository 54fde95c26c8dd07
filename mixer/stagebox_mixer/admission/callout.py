"""The auth callout service: answers nats-server about every connection.

A request that cannot be parsed, decided or answered admits nobody: the server refuses on silence too. A rack that
comes with an issue it was not yet seen with is recorded as having it before the answer goes out.
"""

from __future__ import annotations

import asyncio
import datetime
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable

import structlog

from stagebox.bus import BusClient, BusMessage
from stagebox.errors import StageboxError
from stagebox.identity import ClientId
from stagebox_keys import nats_jwt
from stagebox_keys.mixer_keys import NatsKeys
from stagebox_mixer.admission import policy
from stagebox_mixer.admission.chains import Chains
from stagebox_mixer.admission.policy import Admitted, Refused, Trust
from stagebox_mixer.admission.request import AdmissionRequest, parse
from stagebox_mixer.admission.sessions import Sessions
from stagebox_mixer.audit import Audit, Row
from stagebox_mixer.denial import Denials
from stagebox_mixer.lifecycle.refusals import LifecycleRefused
from stagebox_mixer.limits import LIMITS
from stagebox_mixer.registry.store import Registry

log = structlog.get_logger()

SUBJECT = "$SYS.REQ.USER.AUTH"

Confirm = Callable[[str, int], Awaitable[None]]
"""Records that a rack (name) was seen with the issue (serial) that waited for it; may be called again for it."""


class Callout:
    """Decides admissions from the registry and the deny list, and signs the answers."""

    def __init__(
        self,
        *,
        bus: BusClient,
        keys: NatsKeys,
        trust: Trust,
        registry: Registry,
        audit: Audit,
        denials: Denials,
        confirm: Confirm,
        sessions: Sessions,
    ) -> None:
        self._bus = bus
        self._keys = keys
        self._trust = trust
        self._registry = registry
        self._audit = audit
        self._denials = denials
        self._confirm = confirm
        self._chains = Chains(trust.roots)
        self._sessions = sessions
        self._warned: OrderedDict[str, float] = OrderedDict()
        self._slots = asyncio.Semaphore(LIMITS.admission_concurrency)
        self._tasks: set[asyncio.Task[None]] = set()
        self.admitted = 0
        self.refused = 0

    async def start(self) -> None:
        """Begin to answer."""
        await self._bus.subscribe(SUBJECT, callback=self._on_request)

    async def stop(self) -> None:
        """Wait for the answers under way."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _on_request(self, message: BusMessage) -> None:
        task = asyncio.create_task(self._answer(message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, message: BusMessage) -> None:
        async with self._slots:
            try:
                await self._decide_and_reply(message)
            except StageboxError as error:
                self.refused += 1
                log.warning("admission_failed", reason=error.message)
            except Exception as error:
                # One bad request must not end the service that admits all others.
                self.refused += 1
                log.error("admission_error", error=f"{type(error).__name__}: {error}")

    async def _decide_and_reply(self, message: BusMessage) -> None:
        now = datetime.datetime.now(datetime.UTC)
        request = parse(message.payload.decode("ascii", "replace"), now_s=int(now.timestamp()))
        try:
            admitted = await self._decide(request, now)
        except Refused as refusal:
            self._refuse(request, refusal)
            self._reply(message, request, now, error=refusal.code)
            return
        self.admitted += 1
        facts: dict[str, str | int] = {}
        if admitted.known is not None:
            self._sessions.remember(request.session, admitted.known)
            facts = {"serial": admitted.known.serial, "rights": admitted.known.rights.value}
        log.info(
            "admitted", user=admitted.user, host=request.host, client_id=request.session.client_id,
            tls=request.tls_version, cipher=request.cipher, **facts,
        )  # fmt: skip
        self._reply(message, request, now, jwt=self._user_jwt(request, admitted, now))

    async def _decide(self, request: AdmissionRequest, now: datetime.datetime) -> Admitted:
        proved = policy.prove(request, self._trust, self._chains, now)
        identity = proved.identity
        if isinstance(identity, ClientId):
            return policy.admit_client(proved.chain, identity, await self._denials.read())
        entry, denied = await asyncio.gather(self._registry.rack(identity.name), self._denials.read())
        admitted = policy.admit_rack(
            request,
            proved.chain,
            identity,
            entry=entry,
            denied=denied,
            trust=self._trust,
            now=now,
            known=self._sessions.find(request.session.server_id, request.session.client_id),
        )
        if admitted.proves:
            # Before the answer: from the moment the new secret has worked, the old one is dead.
            try:
                await self._confirm(identity.name, admitted.proves)
            except LifecycleRefused as refusal:
                raise Refused(refusal.code, refusal.message, identity.uri) from None
        return admitted

    def _refuse(self, request: AdmissionRequest, refusal: Refused) -> None:
        self.refused += 1
        detail: dict[str, str | int] = {"host": request.host, "message": refusal.message}
        if refusal.proved:
            detail["proved"] = refusal.proved
            self._warn_of_clone(request, refusal)
        self._audit.refused(
            Row(
                actor=refusal.identity or request.host,
                action="connect",
                subject="snake",
                result="refused",
                reason=refusal.code,
                detail=detail,
            )
        )

    def _warn_of_clone(self, request: AdmissionRequest, refusal: Refused) -> None:
        now = time.monotonic()
        if now - self._warned.get(refusal.identity, -LIMITS.refusal_window_s) < LIMITS.refusal_window_s:
            return  # it tries again and again; the audit counts
        self._warned[refusal.identity] = now
        self._warned.move_to_end(refusal.identity)
        if len(self._warned) > LIMITS.refusal_keys:
            self._warned.popitem(last=False)
        log.warning(
            "possible_clone", rack=refusal.identity, host=request.host, reason=refusal.message,
            proved=refusal.proved, remedy="if the rack itself is connected, somebody has a copy of its disk: deny it",
        )  # fmt: skip

    def _user_jwt(self, request: AdmissionRequest, admitted: Admitted, now: datetime.datetime) -> str:
        publish_deny, subscribe_deny = policy.subject_lists(admitted.permissions)
        return nats_jwt.user_jwt(
            self._keys.stagebox.signing,
            self._keys.stagebox.id,
            request.user_nkey,
            admitted.user,
            nats_jwt.Permissions(
                publish=admitted.permissions.publish,
                subscribe=admitted.permissions.subscribe,
                publish_deny=publish_deny,
                subscribe_deny=(*subscribe_deny, *admitted.permissions.subscribe_deny),
            ),
            issued_s=int(now.timestamp()),
            expires_s=int(admitted.expires.timestamp()),
        )

    def _reply(
        self,
        message: BusMessage,
        request: AdmissionRequest,
        now: datetime.datetime,
        *,
        jwt: str | None = None,
        error: str | None = None,
    ) -> None:
        answer = nats_jwt.authorization_response_jwt(
            self._keys.auth.signing,
            self._keys.auth.id,
            user_nkey=request.user_nkey,
            server_id=request.session.server_id,
            issued_s=int(now.timestamp()),
            jwt=jwt,
            error=error,
        )
        if not self._bus.publish(message.reply, answer.encode("ascii")):
            log.error("admission_answer_lost", client_id=request.session.client_id, at=time.time_ns())
