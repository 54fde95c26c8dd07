"""Which identity key followed which: each statement is signed by the key that went, so a journal sealed by it stays
this rack's own after a rekey.

Pure codec and walk, and one file. A statement is an envelope (domain ``stagebox.succession.v1``) over deterministic
CBOR {Version, Rack, Key, Next}; the file is a CBOR list of them. Nothing in the file is believed but signatures that
lead, link by link, to the key in use.
"""

from __future__ import annotations

from collections.abc import Sequence

from nacl.signing import SigningKey

from stagebox import cbor, envelope
from stagebox.errors import StageboxError, StorageError
from stagebox.files import write_atomic
from stagebox_rack.limits import LIMITS
from stagebox_rack.state import StatePaths

_VERSION = 1
_KEY_BYTES = 32


def declare(rack: str, key: SigningKey, following: bytes) -> bytes:
    """Return ``key``'s statement that ``following`` is the rack's next key."""
    fields = {"Version": _VERSION, "Rack": rack, "Key": bytes(key.verify_key), "Next": following}
    return envelope.seal(envelope.DOMAIN_SUCCESSION, cbor.encode(fields), key)


def ancestors(rack: str, current: bytes, statements: Sequence[bytes]) -> dict[bytes, bytes]:
    """Return the keys that led to ``current``, newest first, each with the statement that says so."""
    said: dict[bytes, list[tuple[bytes, bytes]]] = {}
    for statement in statements[-LIMITS.succession_statements :]:
        found = _read(rack, statement)
        if found is not None:
            said.setdefault(found[1], []).append((found[0], statement))
    keys: dict[bytes, bytes] = {}
    following = [current]
    while following:
        for key, statement in said.get(following.pop(0), ()):
            if key not in keys and key != current:
                keys[key] = statement
                following.append(key)
    return keys


def load(paths: StatePaths) -> list[bytes]:
    """Return the statements on disk, unverified; none where the file is missing or damaged.

    Raises:
        StorageError: it is there and cannot be read.
    """
    try:
        data = paths.succession.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StorageError(f"cannot read {paths.succession}: {error.strerror}") from error
    try:
        found = cbor.decode_canonical(data, max_bytes=LIMITS.succession_bytes)
    except StageboxError:
        return []
    return [item for item in found if type(item) is bytes] if isinstance(found, list) else []


def record(paths: StatePaths, rack: str, key: SigningKey, following: bytes) -> None:
    """Store that ``following`` succeeds ``key``, before it does; statements that lead nowhere are dropped.

    Raises:
        StorageError: it cannot be written.
    """
    kept = list(ancestors(rack, bytes(key.verify_key), load(paths)).values())
    statements = [*reversed(kept), declare(rack, key, following)]
    write_atomic(paths.succession, cbor.encode(statements[-LIMITS.succession_statements :]))


def earlier_keys(paths: StatePaths, rack: str, current: bytes) -> tuple[bytes, ...]:
    """Return the keys this rack had before ``current``, newest first.

    Raises:
        StorageError: the file cannot be read.
    """
    return tuple(ancestors(rack, current, load(paths)))


def _read(rack: str, statement: bytes) -> tuple[bytes, bytes] | None:
    try:
        payload, signature = envelope.split(statement)
        fields = cbor.expect_map(
            cbor.decode_canonical(payload, max_bytes=LIMITS.succession_bytes), "succession"
        )
        if cbor.take_uint(fields, "Version", "succession") != _VERSION or fields.get("Rack") != rack:
            return None
        key = cbor.take_bytes(fields, "Key", "succession", length=_KEY_BYTES)
        following = cbor.take_bytes(fields, "Next", "succession", length=_KEY_BYTES)
        envelope.verify(envelope.DOMAIN_SUCCESSION, payload, signature, key)
    except StageboxError:
        return None  # damaged or forged: it proves nothing, and a journal it would have proved stays closed
    return key, following
