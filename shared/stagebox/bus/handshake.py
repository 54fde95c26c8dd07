"""Witnesses whether our certificate really went out in a TLS handshake.

A loaded certificate is sent only if the server asks for one, and neither Python's TLS objects nor the NATS
WebSocket greeting tell. CPython's message callback does: it shows our own Certificate message. It is a
private hook of the ``ssl`` module, so where it is missing the answer is None (unknown), never a guess.
"""

from __future__ import annotations

import contextlib
import ssl
import weakref
from collections.abc import Iterator
from typing import Any

_HANDSHAKE = 22  # TLS content type
_CERTIFICATE = 11  # TLS handshake message type
_EMPTY_CERTIFICATE_BYTES = 8  # header 4, empty context 1, empty list 3 (RFC 8446 §4.4.2)


class CertificateWitness:
    """Remembers the TLS objects whose handshake carried a certificate of ours."""

    def __init__(self) -> None:
        self._sent: weakref.WeakSet[Any] = weakref.WeakSet()
        self._watching = False

    @contextlib.contextmanager
    def watch(self, context: ssl.SSLContext | None) -> Iterator[None]:
        """Watch the handshakes made with ``context`` meanwhile."""
        if context is None or getattr(context, "_msg_callback", self) is not None:
            yield  # plaintext, no such hook, or somebody else uses it
            return
        self._watching = True
        context._msg_callback = self._message  # type: ignore[attr-defined]
        try:
            yield
        finally:
            context._msg_callback = None  # type: ignore[attr-defined]

    def sent(self, tls: ssl.SSLObject) -> bool | None:
        """Tell whether ``tls`` sent a certificate; None if nobody watched."""
        return tls in self._sent if self._watching else None

    def _message(
        self, connection: Any, direction: str, _version: object, content: int, message: int, data: bytes
    ) -> None:
        ours = direction == "write" and content == _HANDSHAKE and message == _CERTIFICATE
        if ours and len(data) > _EMPTY_CERTIFICATE_BYTES:
            self._sent.add(connection)
