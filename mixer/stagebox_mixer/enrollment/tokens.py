"""One-time tokens as an operator sees them: made, listed, revoked. Only hashes are stored."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass

from stagebox.control.denylist import DenyList
from stagebox.errors import BusError, InputError, StageboxError
from stagebox.identity import DEFAULT_TENANT, check_name
from stagebox_mixer.audit import Row
from stagebox_mixer.enrollment import machine
from stagebox_mixer.lifecycle.audited import AuditLog, Entries, record_failure
from stagebox_mixer.lifecycle.refusals import check_not_denied
from stagebox_mixer.limits import LIMITS
from stagebox_mixer.registry.model import TokenEntry, TokenState, token_hash
from stagebox_mixer.registry.store import Conflict

_NS = 1_000_000_000
_ID_CHARS = 16


@dataclass(frozen=True)
class MadeToken:
    """A token just made; the token itself exists nowhere else."""

    id: str
    token: str
    entry: TokenEntry


@dataclass(frozen=True)
class ListedToken:
    """A stored token. ``id`` (16 hex digits of its hash) is how an operator names it."""

    id: str
    entry: TokenEntry

    def expired(self, now_ns: int) -> bool:
        """Tell whether nobody can use it any more because of its age."""
        return now_ns >= self.entry.expires_at


class Tokens:
    """The stored tokens."""

    def __init__(self, tokens: Entries[TokenEntry], audit: AuditLog, clock: Callable[[], int]) -> None:
        self._tokens = tokens
        self._audit = audit
        self._clock = clock

    async def create(
        self, *, rack: str, ttl_s: int, machine_id: int, actor: str, bans: DenyList
    ) -> MadeToken:
        """Make a token for one rack.

        Raises:
            InputError: illegal name or lifetime. LifecycleRefused: the rack or machine is denied.
            BusError: the registry cannot be written.
        """
        check_name("rack", rack)
        if not 1 <= ttl_s <= LIMITS.token_max_ttl_s:
            raise InputError(
                f"a token lifetime of {ttl_s} s is not between 1 s and {LIMITS.token_max_ttl_s // 3600} h",
                remedy="use --ttl, for example --ttl 15m",
            )
        check_not_denied(bans, rack, None, machine_id=machine_id or None)
        token = "sbt-" + secrets.token_urlsafe(24)
        key, now = token_hash(token), self._clock()
        entry = TokenEntry(
            rack=rack,
            tenant=DEFAULT_TENANT,
            machine_id=machine_id,
            state=TokenState.ISSUED,
            expires_at=now + ttl_s * _NS,
            created_at=now,
            created_by=actor,
        )
        row = Row(actor, "token_create", rack, "ok", detail={"ttl_s": ttl_s, "token": _id(key)})
        await self._write(key, entry, None, row)
        return MadeToken(_id(key), token, entry)

    async def all(self) -> list[ListedToken]:
        """Return every stored token, the newest first.

        Raises:
            BusError: the registry cannot be read.
        """
        found = [(key, await self._tokens.get(key)) for key in await self._tokens.keys()]
        listed = [ListedToken(_id(key), stored.entry) for key, stored in found if stored is not None]
        return sorted(listed, key=lambda token: token.entry.created_at, reverse=True)

    async def revoke(self, token_id: str, *, actor: str) -> ListedToken:
        """Make sure that a token cannot be used (again).

        Raises:
            InputError: there is no such token. BusError: the registry cannot be used.
        """
        keys = [key for key in await self._tokens.keys() if _id(key) == token_id]
        if len(keys) != 1:
            raise InputError(f"there is no token {token_id[:64]!r}", remedy="stagebox admin token list")
        for _ in range(LIMITS.registry_attempts):
            stored = await self._tokens.get(keys[0])
            if stored is None or stored.entry.state is TokenState.REVOKED:
                break
            revoked = machine.revoke(stored.entry)
            row = Row(actor, "token_revoke", revoked.rack, "ok", detail={"token": token_id})
            try:
                await self._write(keys[0], revoked, stored.revision, row)
            except Conflict:
                continue
            return ListedToken(token_id, revoked)
        else:
            raise BusError(f"token {token_id} keeps changing", remedy="try again in a moment")
        if stored is None:
            raise InputError(f"there is no token {token_id!r}", remedy="stagebox admin token list")
        return ListedToken(token_id, stored.entry)

    async def _write(self, key: str, entry: TokenEntry, revision: int | None, row: Row) -> None:
        await self._audit.record(row)
        try:
            await self._tokens.put(key, entry, revision=revision)
        except StageboxError as error:
            await record_failure(self._audit, row, "conflict" if isinstance(error, Conflict) else "storage")
            raise


def _id(key: str) -> str:
    return key[:_ID_CHARS]
