"""The auth callout service: answers nats-server about every connection.

A request that cannot be parsed, decided or answered admits nobody: the server refuses on silence too.
"""

from __future__ import annotations

import asyncio
import datetime
import time
from collections import OrderedDict

import structlog

from stagebox.bus import BusClient, BusMessage
from stagebox.errors import StageboxError
from stagebox.identity import ClientId, RackId
from stagebox_keys import nats_jwt
from stagebox_keys.mixer_keys import NatsKeys
from stagebox_mixer.admission import policy
from stagebox_mixer.admission.policy import Admitted, Refused, Trust
from stagebox_mixer.admission.request import AdmissionRequest, Session, parse
from stagebox_mixer.audit import Audit, Row
from stagebox_mixer.limits import LIMITS
from stagebox_mixer.registry.store import Registry

log = structlog.get_logger()

SUBJECT = "$SYS.REQ.USER.AUTH"


class Callout:
    """Decides admissions from the registry and signs the answers."""

    def __init__(
        self, *, bus: BusClient, keys: NatsKeys, trust: Trust, registry: Registry, audit: Audit
    ) -> None:
        self._bus = bus
        self._keys = keys
        self._trust = trust
        self._registry = registry
        self._audit = audit
        self._sessions: OrderedDict[Session, str] = OrderedDict()
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
            self.refused += 1
            self._audit.refused(
                Row(
                    actor=refusal.identity or request.host,
                    action="connect",
                    subject="snake",
                    result="refused",
                    reason=refusal.code,
                    detail={"host": request.host, "message": refusal.message},
                )
            )
            self._reply(message, request, now, error=refusal.code)
            return
        self.admitted += 1
        if isinstance(admitted.identity, RackId):  # only racks bring a token that a reload does not repeat
            self._remember(request.session, admitted.user)
        log.info(
            "admitted", user=admitted.user, host=request.host, client_id=request.session.client_id,
            tls=request.tls_version, cipher=request.cipher,
        )  # fmt: skip
        self._reply(message, request, now, jwt=self._user_jwt(request, admitted, now))

    async def _decide(self, request: AdmissionRequest, now: datetime.datetime) -> Admitted:
        identity = policy.identify(request, self._trust, now)
        if isinstance(identity, ClientId):
            return policy.admit_client(request, identity)
        entry = await self._registry.rack(identity.name)
        known = self._sessions.get(request.session) == f"rack:{identity.name}"
        return policy.admit_rack(request, identity, entry, self._trust, known_session=known)

    def _remember(self, session: Session, user: str) -> None:
        self._sessions[session] = user
        self._sessions.move_to_end(session)
        while len(self._sessions) > LIMITS.admission_sessions:
            self._sessions.popitem(last=False)

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
