"""A rack's request to its mixer and the mixer's signed answer.

The same bytes go over the snake (``rack.<name>.req.<verb>``) and over HTTPS. A request is signed by the rack's
identity key; an answer by the cluster authority, and it names the request it answers, so it fits no other.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

from nacl.signing import SigningKey

from stagebox import cbor, envelope
from stagebox.control.fields import (
    DIGEST_BYTES,
    NONCE_BYTES,
    close_payload,
    open_payload,
    payload_digest,
    take_map,
)
from stagebox.errors import VerificationError


class Verb(enum.StrEnum):
    """What a rack may ask; the last token of the request's subject."""

    RENEW = "renew"
    SYNC = "sync"
    DENY_LIST = "deny-list"
    PATCH = "patch"
    MODULE = "module"


@dataclass(frozen=True)
class Request:
    """``nonce`` is 16 random bytes, new for each request and repeated with each retry of it."""

    cluster: str
    rack: str
    verb: str
    nonce: bytes
    time_ns: int
    body: dict[str, Any] = field(repr=False)
    extra: dict[str, Any] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Return the deterministic CBOR payload."""
        return close_payload(
            self.extra,
            {
                "Cluster": self.cluster,
                "Rack": self.rack,
                "Verb": self.verb,
                "Nonce": self.nonce,
                "Time": self.time_ns,
                "Body": self.body,
            },
        )

    @classmethod
    def decode(cls, payload: bytes) -> Request:
        """Parse a payload; unknown fields are kept in ``extra``.

        Raises:
            DecodeError: malformed.
        """
        what = "request"
        fields = open_payload(payload, what)
        return cls(
            cluster=cbor.take(fields, "Cluster", str, what),
            rack=cbor.take(fields, "Rack", str, what),
            verb=cbor.take(fields, "Verb", str, what),
            nonce=cbor.take_bytes(fields, "Nonce", what, length=NONCE_BYTES),
            time_ns=cbor.take_uint(fields, "Time", what),
            body=take_map(fields, "Body", what),
            extra=fields,
        )

    def seal(self, key: SigningKey) -> bytes:
        """Return the wire form, signed by the rack's identity key."""
        return envelope.seal(envelope.DOMAIN_REQUEST, self.encode(), key)


@dataclass(frozen=True)
class ReceivedRequest:
    """A request **not yet verified**: the mixer must find out first whose key it has to be signed by."""

    request: Request
    payload: bytes = field(repr=False)
    signature: bytes = field(repr=False)

    @classmethod
    def parse(cls, data: bytes) -> ReceivedRequest:
        """Take an envelope apart without verifying it.

        Raises:
            DecodeError: malformed.
        """
        payload, signature = envelope.split(data)
        return cls(Request.decode(payload), payload, signature)

    @property
    def digest(self) -> bytes:
        """What the answer names."""
        return payload_digest(self.payload)

    def verify(self, public: bytes) -> Request:
        """Return the request if ``public`` signed it.

        Raises:
            VerificationError: somebody else did.
        """
        envelope.verify(envelope.DOMAIN_REQUEST, self.payload, self.signature, public)
        return self.request


@dataclass(frozen=True)
class Answer:
    """``error`` is empty when the request was granted, else a code; ``request`` is the digest it answers."""

    cluster: str
    rack: str
    verb: str
    request: bytes
    time_ns: int
    error: str = ""
    message: str = ""
    body: dict[str, Any] = field(default_factory=dict, repr=False)
    extra: dict[str, Any] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Return the deterministic CBOR payload."""
        return close_payload(
            self.extra,
            {
                "Cluster": self.cluster,
                "Rack": self.rack,
                "Verb": self.verb,
                "Request": self.request,
                "Time": self.time_ns,
                "Error": self.error,
                "Message": self.message,
                "Body": self.body,
            },
        )

    @classmethod
    def decode(cls, payload: bytes) -> Answer:
        """Parse a payload; unknown fields are kept in ``extra``.

        Raises:
            DecodeError: malformed.
        """
        what = "answer"
        fields = open_payload(payload, what)
        return cls(
            cluster=cbor.take(fields, "Cluster", str, what),
            rack=cbor.take(fields, "Rack", str, what),
            verb=cbor.take(fields, "Verb", str, what),
            request=cbor.take_bytes(fields, "Request", what, length=DIGEST_BYTES),
            time_ns=cbor.take_uint(fields, "Time", what),
            error=cbor.take(fields, "Error", str, what),
            message=cbor.take(fields, "Message", str, what),
            body=take_map(fields, "Body", what),
            extra=fields,
        )


def open_answer(data: bytes, cluster_public: bytes, request: Request) -> Answer:
    """Verify an answer and that it answers exactly ``request``.

    Raises:
        DecodeError: malformed. VerificationError: not signed by the cluster, or not the answer to this request.
    """
    answer = Answer.decode(envelope.open_envelope(envelope.DOMAIN_ANSWER, data, cluster_public))
    named = (answer.cluster, answer.rack, answer.verb, answer.request)
    if named != (request.cluster, request.rack, request.verb, payload_digest(request.encode())):
        raise VerificationError("the answer is not to our request")
    return answer
