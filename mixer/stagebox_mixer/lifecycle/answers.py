"""Signed answers to racks' requests. A refusal is an answer too; nothing on a rack changes because of one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import structlog

from stagebox.control.fields import payload_digest
from stagebox.control.request import Answer, ReceivedRequest, Verb
from stagebox.envelope import DOMAIN_ANSWER
from stagebox.errors import BusError, DecodeError, StageboxError, StorageError
from stagebox_keys.authority import ClusterAuthority
from stagebox_mixer.audit import Row
from stagebox_mixer.lifecycle.audited import AuditLog
from stagebox_mixer.lifecycle.refusals import LifecycleRefused

log = structlog.get_logger()


@dataclass
class Caller:
    """Who asks: an address, until a rack's identity key proves more."""

    host: str
    via: str
    proved: str = ""

    @property
    def actor(self) -> str:
        """Who stands in the audit."""
        return self.proved or self.host or "unknown"


Grant = Callable[[ReceivedRequest, Caller], Awaitable[dict[str, Any]]]


class Answers:
    """Turns what a handler returns or raises into a signed answer, and refusals into audit rows."""

    def __init__(
        self, cluster: str, authority: ClusterAuthority, audit: AuditLog, clock: Callable[[], int]
    ) -> None:
        self._cluster = cluster
        self._authority = authority
        self._audit = audit
        self._clock = clock

    async def answer(self, verb: Verb, data: bytes, caller: Caller, grant: Grant) -> bytes:
        """Return the signed answer to the request in ``data``.

        Raises:
            BusError, StorageError: the mixer cannot decide now; the rack tries again.
        """
        try:
            received = ReceivedRequest.parse(data)
        except DecodeError as error:
            self._refused(verb, "unknown", caller, "malformed")
            return self._seal("", verb, payload_digest(data), "malformed", error.message, {})
        rack, digest = received.request.rack, received.digest
        try:
            body = await grant(received, caller)
        except LifecycleRefused as refusal:
            self._refused(verb, rack, caller, refusal.code)
            message = " – ".join(part for part in (refusal.message, refusal.remedy) if part)
            return self._seal(rack, verb, digest, refusal.code, message, {})
        except (BusError, StorageError):
            raise
        except StageboxError as error:
            log.error("request_failed", verb=verb.value, rack=rack[:64], error=error.message)
            self._refused(verb, rack, caller, "failed")
            return self._seal(rack, verb, digest, "failed", "the mixer cannot grant this now", {})
        return self._seal(rack, verb, digest, "", "", body)

    def _refused(self, verb: Verb, rack: str, caller: Caller, code: str) -> None:
        detail: dict[str, str | int] = {"host": caller.host, "via": caller.via}
        self._audit.refused(
            Row(caller.actor, verb.value.replace("-", "_"), rack[:64], "refused", code, detail)
        )

    def _seal(
        self, rack: str, verb: Verb, digest: bytes, error: str, message: str, body: dict[str, Any]
    ) -> bytes:
        answer = Answer(self._cluster, rack, verb.value, digest, self._clock(), error, message, body)
        return self._authority.seal(DOMAIN_ANSWER, answer.encode())
