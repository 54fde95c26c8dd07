"""The manifests on storage: the newest state, and the one atomic step that is a commit. Blocking.

``manifest/<number>.cbor`` holds one change, ``manifest/<number>.snapshot`` the whole state after it. Both are
AES-256-GCM under the lake's key with their name as associated data, and each names the digest of the one before, so a
manifest that was altered, moved or taken out of the middle does not pass. One taken off the end is an older lake: the
stream's position and the racks' own chains tell.
"""

from __future__ import annotations

import os
import time

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from stagebox.errors import DecodeError, StorageError, VerificationError
from stagebox_mixer.lake.state import Change, State, decode_change, decode_snapshot
from stagebox_mixer.lake.storage import Storage
from stagebox_mixer.limits import LIMITS

_NONCE_BYTES = 12
_DIRECTORY = "manifest"


class OvertakenError(StorageError):
    """Somebody else wrote this manifest."""


class Manifests:
    """The manifests of one lake. One writer, any number of readers."""

    def __init__(self, storage: Storage, key: bytes) -> None:
        self._storage = storage
        self._cipher = AESGCM(blake3(key, derive_key_context="stagebox.lake.manifest.v1").digest())

    def load(self) -> State:
        """Return the newest state; the empty one of a new lake.

        Raises:
            StorageError: the storage failed.
            VerificationError: a manifest does not open with this key, or one is missing.
        """
        try:
            names = self._storage.names(_DIRECTORY)
        except OSError as error:
            raise _failed("list", _DIRECTORY, error) from error
        numbers = sorted(_number(name) for name in names if name.endswith(".cbor"))
        snapshots = sorted(_number(name) for name in names if name.endswith(".snapshot"))
        state = State()
        if snapshots:
            state = decode_snapshot(self._read(_snapshot_name(snapshots[-1])), LIMITS.lake_manifest_bytes)
        for number in numbers:
            if number > state.number:
                state = self._apply(state, number)
        return state

    def commit(self, state: State, change: Change) -> State:
        """Make ``change`` durable after ``state``; return the state after it. All of it or nothing.

        Raises:
            OvertakenError: another writer was faster; nothing is committed.
            StorageError: the storage refused; whether it is committed can only be told by :meth:`load`.
        """
        number, now = state.number + 1, time.time_ns()
        payload = change.encode(number, state.digest, now)
        after = state.after(change, number, blake3(payload).digest(), now)
        self._write(_name(number), payload)
        if number % LIMITS.lake_snapshot_every == 0:
            self._snapshot(after)
        return after

    def _snapshot(self, state: State) -> None:
        try:
            self._write(_snapshot_name(state.number), state.snapshot())
            for name in self._storage.names(_DIRECTORY):
                if _number(name) <= state.number - LIMITS.lake_snapshot_every:
                    self._storage.delete(name)
        except (OSError, StorageError):
            return  # a snapshot only saves time: the next one is tried in a while

    def _apply(self, state: State, number: int) -> State:
        payload = self._read(_name(number))
        change, found, previous, time_ns = decode_change(payload, LIMITS.lake_manifest_bytes)
        if (found, previous) != (state.number + 1, state.digest):
            raise VerificationError(
                f"manifest {number} of the lake does not follow manifest {state.number}",
                remedy="a manifest is missing or belongs to another lake: put the directory manifest/ back whole",
            )
        return state.after(change, number, blake3(payload).digest(), time_ns)

    def _read(self, name: str) -> bytes:
        try:
            data = self._storage.read(name)
        except OSError as error:
            raise _failed("read", name, error) from error
        try:
            return self._cipher.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], name.encode())
        except InvalidTag:
            raise VerificationError(
                f"{name} of the lake does not open: it was written with another storage key, or altered",
                remedy="use the storage.key of this cluster, or name this cluster's own lake",
            ) from None

    def _write(self, name: str, payload: bytes) -> None:
        nonce = os.urandom(_NONCE_BYTES)
        try:
            self._storage.write(name, nonce + self._cipher.encrypt(nonce, payload, name.encode()))
        except FileExistsError as error:
            raise OvertakenError(
                f"{name} of the lake exists already: another mixer writes to it",
                remedy="run one mixer a lake",
            ) from error
        except OSError as error:
            raise _failed("write", name, error) from error


def _name(number: int) -> str:
    return f"{_DIRECTORY}/{number:020d}.cbor"


def _snapshot_name(number: int) -> str:
    return f"{_DIRECTORY}/{number:020d}.snapshot"


def _number(name: str) -> int:
    stem = name.rsplit("/", 1)[-1].split(".")[0]
    if not stem.isdigit():
        raise DecodeError(f"{name} is no manifest of a lake")
    return int(stem)


def _failed(what: str, name: str, error: OSError) -> StorageError:
    return StorageError(
        f"cannot {what} {name} of the lake: {error.strerror or error}",
        remedy="check the storage's space and health; what is not committed stays in the stream WAL",
    )
