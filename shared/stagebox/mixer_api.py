"""A client of the mixer's HTTPS API for people and tools, authenticated by a client certificate.

Every failure becomes one error that says what to check: the address, the mixer's certificate, our own
certificate, our role, or the request itself.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from stagebox.errors import BusError, InputError, KeyFileError, StageboxError, TlsError, VerificationError
from stagebox.tls import client_context

_TIMEOUT_S = 10.0
_UPLOAD_S = 120.0
_MAX_ANSWER_BYTES = 16 << 20
_PLAIN_CODES = frozenset({"forbidden", "denied", "unauthorized"})
"""Codes that say no more than the message does."""


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

    def tokens(self) -> list[dict[str, Any]]:
        """Return all enrollment tokens, by id; the tokens themselves are known to nobody."""
        return self._list("/api/v1/tokens", "tokens")

    def revoke_token(self, token_id: str) -> dict[str, Any]:
        """Revoke a token that was not used yet."""
        return self._call("DELETE", f"/api/v1/tokens/{segment(token_id)}")

    def racks(self, status: str | None = None) -> list[dict[str, Any]]:
        """Return all registered racks, or those of one status."""
        return self._list("/api/v1/racks", "racks", {"status": status} if status is not None else {})

    def rack(self, name: str) -> dict[str, Any]:
        """Return one rack."""
        return self._call("GET", f"/api/v1/racks/{segment(name)}")

    def approve(self, name: str, reason: str = "") -> dict[str, Any]:
        """Approve a pending rack."""
        return self._step(name, "approve", reason)

    def suspend(self, name: str, reason: str = "") -> dict[str, Any]:
        """Let a rack stay connected and do nothing."""
        return self._step(name, "suspend", reason)

    def activate(self, name: str, reason: str = "") -> dict[str, Any]:
        """End a suspension."""
        return self._step(name, "activate", reason)

    def rotate_secret(self, name: str, reason: str = "") -> dict[str, Any]:
        """Give a rack a new passport secret."""
        return self._step(name, "rotate-secret", reason)

    def check(self, name: str) -> dict[str, Any]:
        """Ask a rack for a signed sign of life."""
        return self._step(name, "check", "")

    def listen(self, rack: str, bus: str, ttl_s: int, lease: str | None = None) -> dict[str, Any]:
        """Take or renew a lease on a monitor bus."""
        body: dict[str, object] = {"bus": bus, "ttl_s": ttl_s}
        if lease is not None:
            body["lease"] = lease
        return self._call("POST", f"/api/v1/racks/{segment(rack)}/listen", body)

    def release(self, rack: str, bus: str, lease: str) -> dict[str, Any]:
        """End a lease."""
        return self._call("DELETE", f"/api/v1/racks/{segment(rack)}/listen/{segment(bus)}/{segment(lease)}")

    def reset_meters(self, name: str, source: str = "", programme: str = "") -> dict[str, Any]:
        """Start a rack's integrated loudness, range and maxima again."""
        body: dict[str, object] = {"source": source, "programme": programme}
        return self._call("POST", f"/api/v1/racks/{segment(name)}/reset-meters", body)

    def remove(self, name: str, reason: str = "") -> dict[str, Any]:
        """Take a rack out of the registry."""
        return self._call(
            "DELETE", f"/api/v1/racks/{segment(name)}", params={"reason": reason} if reason else {}
        )

    def denied(self) -> dict[str, Any]:
        """Return the deny list."""
        return self._call("GET", "/api/v1/denied")

    def deny(self, kind: str, value: str, reason: str) -> dict[str, Any]:
        """Ban a rack, a machine or a certificate."""
        return self._call("POST", "/api/v1/denied", {"kind": kind, "value": value, "reason": reason})

    def clear(self, kind: str, value: str, reason: str = "") -> dict[str, Any]:
        """Lift a ban."""
        path = f"/api/v1/denied/{segment(kind)}/{segment(value)}"
        return self._call("DELETE", path, params={"reason": reason} if reason else {})

    def audit(self, after: int, limit: int) -> dict[str, Any]:
        """Return a page of audit rows with sequences above ``after``."""
        return self._call("GET", "/api/v1/audit", params={"after": str(after), "limit": str(limit)})

    def lake_kinds(self) -> list[str]:
        """Return what kinds of record the lake holds."""
        kinds = self._call("GET", "/api/v1/lake/kinds").get("kinds")
        return [str(kind) for kind in kinds] if isinstance(kinds, list) else []

    @contextmanager
    def lake_records(
        self, kind: str, *, rack: str = "", first: str = "", last: str = ""
    ) -> Iterator[Iterator[bytes]]:
        """Give the bytes of an Arrow IPC stream with every record of one kind; dates are UTC, YYYY-MM-DD, both in."""
        params = {name: value for name, value in (("rack", rack), ("first", first), ("last", last)) if value}
        path = f"/api/v1/lake/records/{segment(kind)}"
        with self._explained(), self._client.stream("GET", path, params=params) as response:
            if not response.is_success:
                response.read()
                raise _refusal(self._url, response.status_code, _json(response))
            yield response.iter_bytes()

    def lake_holds(self) -> list[dict[str, Any]]:
        """Return the legal holds in place."""
        return self._list("/api/v1/lake/holds", "holds")

    def lake_hold(
        self, name: str, reason: str, *, rack: str = "", first: str = "", last: str = ""
    ) -> dict[str, Any]:
        """Put a legal hold in place."""
        body: dict[str, object] = {"name": name, "reason": reason, "rack": rack, "first": first, "last": last}
        return self._call("POST", "/api/v1/lake/holds", body)

    def lake_release(self, name: str, reason: str = "") -> dict[str, Any]:
        """Lift a legal hold."""
        return self._call(
            "DELETE", f"/api/v1/lake/holds/{segment(name)}", params={"reason": reason} if reason else {}
        )

    def _step(self, name: str, step: str, reason: str) -> dict[str, Any]:
        body: dict[str, object] = {"reason": reason} if reason else {}
        return self._call("POST", f"/api/v1/racks/{segment(name)}/{step}", body)

    def _list(self, path: str, field: str, params: dict[str, str] | None = None) -> list[dict[str, Any]]:
        return self._list_in(self._call("GET", path, params=params), field)

    def _list_in(self, answer: Mapping[str, Any], field: str) -> list[dict[str, Any]]:
        found = answer.get(field)
        if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
            raise BusError(f"the mixer at {self._url} answered without a list of {field}")
        return found

    def _call(
        self,
        method: str,
        path: str,
        body: dict[str, object] | None = None,
        *,
        params: Mapping[str, str | list[str]] | None = None,
    ) -> dict[str, Any]:
        with self._explained():
            response = self._client.request(method, path, json=body, params=params or None)
        return self._answer(response)

    def _upload(
        self, path: str, pieces: Iterator[bytes], size: int, params: Mapping[str, str | list[str]]
    ) -> dict[str, Any]:
        """Post ``size`` bytes as they come; the mixer may take long over what they say."""
        headers = {"content-length": str(size), "content-type": "application/octet-stream"}
        with self._explained(_UPLOAD_S):
            response = self._client.post(
                path, content=pieces, headers=headers, params=params or None, timeout=_UPLOAD_S
            )
        return self._answer(response)

    def _answer(self, response: httpx.Response) -> dict[str, Any]:
        answer = _json(response)
        if response.is_success and isinstance(answer, dict):
            return answer
        raise _refusal(self._url, response.status_code, answer)

    @contextmanager
    def _explained(self, timeout_s: float = _TIMEOUT_S) -> Iterator[None]:
        try:
            yield
        except httpx.TimeoutException:
            raise BusError(
                f"the mixer at {self._url} did not answer within {timeout_s:.0f} s",
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


def _json(response: httpx.Response) -> Any:
    try:
        return response.json() if len(response.content) <= _MAX_ANSWER_BYTES else None
    except ValueError:
        return None


def segment(value: str) -> str:
    """Return ``value`` as one segment of a path, whatever is in it."""
    return quote(value, safe="")


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
        code = fields.get("error")
        why = f" (code {code})" if isinstance(code, str) and code not in _PLAIN_CODES else ""
        return VerificationError(f"the mixer refused: {message}{why}", remedy=known)
    if status == 429:
        return BusError(f"the mixer is too busy: {message}", remedy=known)
    if status == 504:
        return BusError(message, remedy=known)  # it is the rack that does not answer
    if status >= 500:
        return BusError(f"the mixer failed: {message}", remedy=known or "see the mixer's log")
    return InputError(message, remedy=known)
