"""What is left of a version whose entry cannot be read: enough to revoke it, and never enough to hand it out.

The files in the store say it best, which this cluster signed. Beside them whatever the entry still says is believed:
where it is wrong, more is banned, and whoever can write the registry can take modules away anyhow.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import structlog

from stagebox import cbor
from stagebox.errors import BusError, DecodeError, ModuleError
from stagebox.modules.statement import DIGEST_BYTES, KEY_ID_BYTES
from stagebox.modules.verification import verify_countersigned
from stagebox_mixer.limits import LIMITS

log = structlog.get_logger()

_EVER_NS = 1 << 64


class Files(Protocol):
    """The files of modules by digest."""

    async def stored(self) -> Iterable[bytes]:
        """Return the digests that files are stored under."""

    async def get(self, digest: bytes) -> bytes:
        """Return a file; raises ``ModuleError`` if it is gone or altered."""


@dataclass(frozen=True)
class Remains:
    """What an entry still says. ``key_id`` is empty if it does not say it."""

    digests: tuple[bytes, ...] = ()
    key_id: bytes = b""


def remains_of(data: bytes) -> Remains:
    """Read what can be read of an entry, whatever else is in it. Pure."""
    try:
        fields = cbor.expect_map(cbor.decode(data, max_bytes=LIMITS.module_record_bytes), "module entry")
    except DecodeError:
        return Remains()
    digests = [_bytes_of(fields.get(name), DIGEST_BYTES) for name in ("vendor_digest", "digest")]
    return Remains(
        tuple(digest for digest in digests if digest), _bytes_of(fields.get("key_id"), KEY_ID_BYTES)
    )


def _bytes_of(value: object, length: int) -> bytes:
    return value if isinstance(value, bytes) and len(value) == length else b""


class SignedFiles:
    """The store's files as the versions that this cluster signed them as."""

    def __init__(self, files: Files, cluster: str, cluster_public: bytes) -> None:
        self._files = files
        self._cluster = cluster
        self._public = cluster_public

    async def digests(self, name: str, version: str) -> list[bytes]:
        """Return the digests by which a version is banned: of the vendor's file, then of every countersigned one.

        Every file is read: some milliseconds each.

        Raises:
            BusError: the store cannot be read.
        """
        vendors, own = dict[bytes, None](), []
        for digest in await self._files.stored():
            try:
                data = await self._files.get(digest)
            except ModuleError:
                continue  # it is gone, or altered: the log says so
            found = await asyncio.to_thread(self._signed, data)
            if found is not None and found[:2] == (name, version):
                vendors[found[2]] = None
                own.append(digest)
        return [*vendors, *own]

    def _signed(self, data: bytes) -> tuple[str, str, bytes] | None:
        """Return what the countersignature is of, however old; None if it is not this cluster's."""
        try:
            found = verify_countersigned(
                data, cluster=self._cluster, cluster_public=self._public, now_ns=0, skew_ns=_EVER_NS
            )
        except ModuleError:
            return None
        statement = found.cluster.statement
        return statement.name, statement.version, statement.sha256


async def digests_of(name: str, version: str, data: bytes, signed: SignedFiles) -> list[bytes]:
    """Return every digest by which a version is to be banned whose entry is ``data``; the vendor's files' first.

    Raises:
        ModuleError: ``entry_unreadable``: neither entry nor files say any. BusError: the files cannot be read, and the
        entry says nothing.
    """
    said = remains_of(data).digests
    try:
        found = await signed.digests(name, version)
    except BusError as error:
        if not said:
            raise
        log.error("module_files_not_searched", module=f"{name}@{version}", error=error.message)
        found = []
    if not (digests := list(dict.fromkeys((*found, *said)))):
        raise ModuleError(
            "entry_unreadable",
            f"the registry's entry of {name}@{version} cannot be read, and no file of it is stored",
            remedy="revoke the key that signed it: stagebox wasm revoke --vendor KEY",
        )
    return digests
