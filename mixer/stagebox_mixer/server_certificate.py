"""The mixer's own server certificate for HTTPS and the snake: issued at start, renewed in place.

The key lives in the run directory, mode 0600, for nats-server to read; it is made anew with every certificate.
"""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog
from cryptography.hazmat.primitives.asymmetric import ec

from stagebox.certificates import to_pem
from stagebox.errors import ConfigError, StageboxError
from stagebox.files import make_private_dir, write_atomic
from stagebox.identity import MixerId
from stagebox.keyfiles import encode_private_key
from stagebox_keys.ca import IssuingAuthority
from stagebox_mixer.limits import LIMITS

log = structlog.get_logger()

_HOST = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,62})(?:\.[A-Za-z0-9_-]{1,63})*\.?\Z")


@dataclass(frozen=True)
class ServerFiles:
    """Where certificate (leaf and issuing CA), key and trusted roots stand for both servers."""

    certificate: Path
    key: Path
    roots: Path


class ServerCertificate:
    """Issues into ``directory`` and says when it is time again."""

    def __init__(
        self, *, authority: IssuingAuthority, identity: MixerId, names: Sequence[str], directory: Path
    ) -> None:
        self._authority = authority
        self._identity = identity
        self._hosts, self._addresses = split_names(names)
        self._directory = directory
        self.files = ServerFiles(
            directory / "server.pem", directory / "server.key", directory / "client-ca.pem"
        )
        self._renew_at = datetime.datetime.min.replace(tzinfo=datetime.UTC)

    def issue(self, now: datetime.datetime) -> None:
        """Write a new key and certificate.

        Raises:
            KeyFileError: the issuing CA has expired. StorageError: the directory is not writable.
        """
        make_private_dir(self._directory)
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = self._authority.sign_server(
            key.public_key(),
            self._hosts,
            self._addresses,
            now=now,
            days=LIMITS.server_certificate_days,
            spiffe=self._identity,
        )
        write_atomic(self.files.key, encode_private_key(key, None))
        write_atomic(self.files.certificate, to_pem([leaf]) + self._authority.chain_pem)
        write_atomic(self.files.roots, self._authority.root_pem)
        life = leaf.not_valid_after_utc - now
        self._renew_at = now + life * 2 / 3

    async def keep_fresh(self, on_renewed: Callable[[], None]) -> None:
        """Renew at two thirds of life for ever; ``on_renewed`` makes the servers read the files again."""
        while True:
            await asyncio.sleep(LIMITS.server_certificate_check_s)
            now = datetime.datetime.now(datetime.UTC)
            if now < self._renew_at:
                continue
            try:
                self.issue(now)
                on_renewed()
            except StageboxError as error:
                # A third of its life is left to try again in.
                log.error("server_certificate_not_renewed", error=error.message, remedy=error.remedy)
            else:
                log.info("server_certificate_renewed", next_renewal=self._renew_at.isoformat())


def split_names(
    names: Sequence[str],
) -> tuple[list[str], list[ipaddress.IPv4Address | ipaddress.IPv6Address]]:
    """Return host names and addresses apart.

    Raises:
        ConfigError: something is neither.
    """
    hosts: list[str] = []
    addresses: list[ipaddress.IPv4Address | ipaddress.IPv6Address] = []
    for name in names:
        try:
            addresses.append(ipaddress.ip_address(name))
        except ValueError:
            if not _HOST.match(name):
                raise ConfigError(
                    f"{name!r} is neither a host name nor an IP address",
                    remedy="correct --public-name (mixer.public_names)",
                ) from None
            hosts.append(name)
    return hosts, addresses
