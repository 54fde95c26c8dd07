"""HTTPS to the mixer's API with the standard library's client: two requests do not earn a heavier one's imports.

Blocking, for a worker thread. A reply is bounded in size and every wait in time; what a reply says is for the
caller to verify.
"""

from __future__ import annotations

import http.client
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from stagebox.errors import ConfigError, StageboxError
from stagebox.loopback import is_loopback
from stagebox_rack.limits import LIMITS

OCTETS = "application/octet-stream"
_AUTHORITY = re.compile(r"(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]+)?\Z")  # no user, space or zone


@dataclass(frozen=True)
class MixerAddress:
    """A checked URL of a mixer's API."""

    url: str
    host: str
    port: int
    secure: bool


class UnreachableError(StageboxError):
    """The mixer's API could not be reached, or what answers does not speak HTTP."""

    exit_code = 69


def parse_mixer_url(url: str, named: str = "--mixer") -> MixerAddress:
    """Check the mixer's URL, which was given as ``named``. Plaintext is for loopback only.

    Raises:
        ConfigError: not https (or loopback http), or malformed.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if not host or parts.scheme not in ("https", "http") or not _AUTHORITY.match(parts.netloc):
        # The value is not repeated: it may be a mistyped token, or carry a password.
        raise ConfigError(f"{named} is not a mixer URL", remedy=f"use {named} https://<host>:8443")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ConfigError(
            f"the mixer URL has more than host and port {parts.netloc!r}",
            remedy=f"use {named} {parts.scheme}://{parts.netloc}",
        )
    if parts.scheme == "http" and not is_loopback(host):
        raise ConfigError(
            f"{url!r} would send the enrollment token in plaintext to {host}",
            remedy=f"use {named} https://{parts.netloc}",
        )
    secure = parts.scheme == "https"
    return MixerAddress(
        f"{parts.scheme}://{parts.netloc}",
        host,
        port if port is not None else (443 if secure else 80),
        secure,
    )


def call(
    mixer: MixerAddress,
    method: str,
    path: str,
    context: ssl.SSLContext,
    *,
    body: bytes | None = None,
    headers: Mapping[str, str],
    max_bytes: int,
) -> tuple[int, bytes]:
    """Send one request and return (status, content); of an oversized reply, one byte more than ``max_bytes``.

    Raises:
        UnreachableError: no connection, no acceptable certificate, no HTTP, or no answer in time.
    """
    connection = _connection(mixer, context)
    try:
        connection.request(method, path, body, {**headers, "Connection": "close"})
        reply = connection.getresponse()
        return reply.status, reply.read(max_bytes + 1)
    except (OSError, http.client.HTTPException, UnicodeError) as error:  # a host name no resolver takes
        raise UnreachableError(f"cannot reach the mixer {mixer.url}: {_reason(error)}") from None
    finally:
        connection.close()


def _connection(mixer: MixerAddress, context: ssl.SSLContext) -> http.client.HTTPConnection:
    if mixer.secure:
        return http.client.HTTPSConnection(
            mixer.host, mixer.port, timeout=LIMITS.enroll_timeout, context=context
        )
    return http.client.HTTPConnection(mixer.host, mixer.port, timeout=LIMITS.enroll_timeout)


def _reason(error: Exception) -> str:
    cause = error.__cause__ or error
    return str(cause) or type(cause).__name__
