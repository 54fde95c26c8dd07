"""A client of the mixer's HTTPS API for people and tools, authenticated by a client certificate.

Every failure becomes one error that says what to check: the address, the mixer's certificate, our own
certificate, our role, or the request itself.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from stagebox.errors import BusError, InputError, KeyFileError, StageboxError, TlsError, VerificationError
from stagebox.tls import client_context

_TIMEOUT_S = 10.0
_MAX_ANSWER_BYTES = 16 << 20


class MixerApi:
    """One mixer at ``base_url``, spoken to as the identity in ``identity``."""

    def __init__(self, base_url: str, identity: Path) -> None:
        self._url = base_url.rstrip("/")
        self._identity = identity
        self._client = httpx.Client(
            base_url=self._url,
            verify=_context(identity),
            timeout=_TIMEOUT_S,
            follow_redirects=False,
            trust_env=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.close()

    def create_token(self, rack: str, ttl_s: int, machine_id: int | None) -> dict[str, Any]:
        """Ask for a one-time enrollment token for ``rack``."""
        body: dict[str, object] = {"rack": rack, "ttl_s": ttl_s}
        if machine_id is not None:
            body["machine_id"] = machine_id
        return self._call("POST", "/api/v1/tokens", body)

    def racks(self) -> list[dict[str, Any]]:
        """Return all registered racks."""
        racks = self._call("GET", "/api/v1/racks").get("racks")
        if not isinstance(racks, list) or not all(isinstance(rack, dict) for rack in racks):
            raise BusError(f"the mixer at {self._url} answered without a list of racks")
        return racks

    def rack(self, name: str) -> dict[str, Any]:
        """Return one rack."""
        return self._call("GET", f"/api/v1/racks/{quote(name, safe='')}")

    def approve(self, name: str) -> dict[str, Any]:
        """Approve a pending rack."""
        return self._call("POST", f"/api/v1/racks/{quote(name, safe='')}/approve", {})

    def _call(self, method: str, path: str, body: dict[str, object] | None = None) -> dict[str, Any]:
        with self._explained():
            response = self._client.request(method, path, json=body)
        try:
            answer = response.json() if len(response.content) <= _MAX_ANSWER_BYTES else None
        except ValueError:
            answer = None
        if response.is_success and isinstance(answer, dict):
            return answer
        raise _refusal(self._url, response.status_code, answer)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except httpx.TimeoutException:
            raise BusError(
                f"the mixer at {self._url} did not answer within {_TIMEOUT_S:.0f} s",
                remedy="check the address and the network",
            ) from None
        except httpx.TransportError as error:
            raise self._transport(error) from None
        except httpx.InvalidURL as error:
            raise InputError(
                f"{self._url!r} is not a URL: {error}", remedy="give --mixer https://…"
            ) from None

    def _transport(self, error: httpx.TransportError) -> StageboxError:
        cause = _root_cause(error)
        if isinstance(cause, ssl.SSLCertVerificationError):
            return TlsError(
                f"the mixer at {self._url} did not prove that it belongs to this cluster: "
                f"{cause.verify_message}",
                remedy="check the address, and that the identity directory is of the same cluster",
            )
        alert = _tls_alert(cause)
        if alert == "wrong version number":
            return TlsError(f"what listens at {self._url} does not speak TLS", remedy="check --mixer")
        if alert is not None:
            return TlsError(
                f"the mixer at {self._url} refused the TLS connection: {alert}",
                remedy=f"check that {self._identity / 'client.crt'} is current and of this cluster",
            )
        if isinstance(error, httpx.RemoteProtocolError):
            # In TLS 1.3 a refused client certificate shows only after the handshake, as a closed connection.
            return TlsError(
                f"the mixer at {self._url} closed the connection without an answer",
                remedy=f"check that {self._identity / 'client.crt'} is of this mixer's cluster",
            )
        reason = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
        return BusError(
            f"cannot reach the mixer at {self._url}: {reason}",
            remedy="start it with `stagebox mixer run`, or name another with --mixer",
        )


def _context(identity: Path) -> ssl.SSLContext:
    paths = {name: identity / name for name in ("ca.pem", "client.crt", "client.key")}
    missing = [str(path) for path in paths.values() if not path.exists()]
    if missing:
        raise KeyFileError(
            f"the identity directory {identity} lacks {', '.join(Path(path).name for path in missing)}",
            remedy="make one with `stagebox keys gen-client`, and name it with --identity",
        )
    try:
        roots = paths["ca.pem"].read_bytes()
    except OSError as error:
        raise KeyFileError(f"cannot read {paths['ca.pem']}: {error.strerror}") from None
    return client_context(roots, paths["client.crt"], paths["client.key"])


def _root_cause(error: BaseException) -> BaseException:
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return error


def _tls_alert(cause: BaseException) -> str | None:
    """Return what a failed TLS connection says in words, e.g. ``certificate expired``; None for others."""
    reason = getattr(cause, "reason", None)
    # httpcore hands some read errors over as text alone.
    text = reason if isinstance(reason, str) else str(cause)
    if not isinstance(cause, ssl.SSLError) and "ssl" not in text.lower():
        return None
    words = text.lower().replace("_", " ")
    return words.partition(" alert ")[2] or words


def _refusal(url: str, status: int, answer: object) -> StageboxError:
    fields = answer if isinstance(answer, dict) else {}
    message = fields.get("message")
    if not isinstance(message, str):
        return BusError(
            f"{url} answered {status} and not as a mixer does", remedy="check that --mixer names a mixer"
        )
    remedy = fields.get("remedy")
    known = remedy if isinstance(remedy, str) else None
    if status in (401, 403):
        return VerificationError(f"the mixer refused: {message}", remedy=known)
    if status >= 500:
        return BusError(f"the mixer failed: {message}", remedy=known or "see the mixer's log")
    return InputError(message, remedy=known)
