"""Which identity keys this rack had before: each key signs, before it is used, which it follows, so a journal sealed by
one of them stays this rack's own after a rekey.

Pure codec, and one file. A statement is an envelope (domain ``stagebox.succession.v1``) over deterministic CBOR
{Version, Rack, Key, Earlier}, signed by Key; Earlier are all keys before it, newest first. The file is a CBOR list of
one for each identity held. Nothing in it is believed but what the key in use has signed: whoever else can write here
cannot make a key the rack's.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from nacl.signing import SigningKey

from stagebox import cbor, envelope
from stagebox.errors import StageboxError, StorageError
from stagebox.files import write_atomic
from stagebox_rack.limits import LIMITS
from stagebox_rack.state import StatePaths

_VERSION = 1
_KEY_BYTES = 32


def declare(rack: str, key: SigningKey, earlier: Sequence[bytes]) -> bytes:
    """Return ``key``'s statement that it follows ``earlier``, newest first."""
    fields = {"Version": _VERSION, "Rack": rack, "Key": bytes(key.verify_key), "Earlier": list(earlier)}
    return envelope.seal(envelope.DOMAIN_SUCCESSION, cbor.encode(fields), key)


def ancestors(rack: str, current: bytes, statements: Sequence[bytes]) -> tuple[bytes, ...]:
    """Return the keys that ``current`` says it follows, newest first."""
    for statement in statements:
        found = _read(rack, statement)
        if found is not None and found[0] == current:
            return found[1]
    return ()


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


def record(paths: StatePaths, rack: str, key: SigningKey, previous: bytes, held: Collection[bytes]) -> None:
    """Store, before ``key`` is used, that it follows ``previous``; only statements of keys ``held`` are kept.

    Raises:
        StorageError: it cannot be written.
    """
    statements = load(paths)
    earlier = (previous, *ancestors(rack, previous, statements))
    if len(earlier) > LIMITS.succession_keys:
        # The first key of all is what the journal's key file names.
        earlier = (*earlier[: LIMITS.succession_keys - 1], earlier[-1])
    signed = {found[0]: item for item in statements if (found := _read(rack, item)) is not None}
    kept = [item for public, item in signed.items() if public in held]
    write_atomic(paths.succession, cbor.encode([*kept, declare(rack, key, earlier)]))


def earlier_keys(paths: StatePaths, rack: str, current: bytes) -> tuple[bytes, ...]:
    """Return the keys this rack had before ``current``, newest first.

    Raises:
        StorageError: the file cannot be read.
    """
    return ancestors(rack, current, load(paths))


def _read(rack: str, statement: bytes) -> tuple[bytes, tuple[bytes, ...]] | None:
    """Return whose statement it is and which keys it says to follow."""
    what = "succession"
    try:
        payload, signature = envelope.split(statement)
        fields = cbor.expect_map(cbor.decode_canonical(payload, max_bytes=LIMITS.succession_bytes), what)
        if cbor.take_uint(fields, "Version", what) != _VERSION or fields.get("Rack") != rack:
            return None
        key = cbor.take_bytes(fields, "Key", what, length=_KEY_BYTES)
        earlier = cbor.take(fields, "Earlier", list, what)
        envelope.verify(envelope.DOMAIN_SUCCESSION, payload, signature, key)
    except StageboxError:
        return None  # damaged or forged: it proves nothing, and a journal it would have proved stays closed
    if not all(type(item) is bytes and len(item) == _KEY_BYTES for item in earlier):
        return None
    return key, tuple(item for item in earlier if item != key)
