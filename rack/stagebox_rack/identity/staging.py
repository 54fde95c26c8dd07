"""Staged identities on disk: put there whole, promoted when proved, put right after a crash.

Rules: a slot appears by one rename of a complete directory; what is staged stays until it, or a newer one, is proved;
a passport that does not verify is not promoted; every step is durable before the next one.
What is to be done is decided in ``recovery.py``; this is the thin edge to the disk. Callers hold the identity lock.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from stagebox import passport as passports
from stagebox.errors import StorageError
from stagebox.files import fsync_dir, make_private_dir, write_new
from stagebox_rack import state
from stagebox_rack.identity.recovery import (
    CERTIFICATE,
    KEY,
    PASSPORT,
    PROMOTION_ORDER,
    Decision,
    SlotName,
    decide,
    next_name,
)
from stagebox_rack.limits import LIMITS
from stagebox_rack.state import IdentityFiles, StatePaths

_UNFINISHED = ".new-"
T = TypeVar("T")


@dataclass(frozen=True)
class Material:
    """A verified identity, ready to be staged."""

    serial: int
    key_pem: bytes = field(repr=False)
    certificate_pem: bytes
    passport: bytes = field(repr=False)


class Disk:
    """The operations staging is made of, each durable when it returns; a test cuts the power between them."""

    def make_dir(self, path: Path) -> None:
        """Make a private directory, which may be there already."""
        make_private_dir(path)
        fsync_dir(path.parent)

    def write(self, path: Path, data: bytes, mode: int) -> None:
        """Write a new file."""
        write_new(path, data, mode=mode)

    def rename(self, source: Path, target: Path) -> None:
        """Move a file over another, or a directory to a new name."""
        source.replace(target)
        fsync_dir(target.parent)
        if source.parent != target.parent:
            fsync_dir(source.parent)

    def remove(self, path: Path) -> None:
        """Remove a file."""
        path.unlink(missing_ok=True)
        fsync_dir(path.parent)

    def remove_dir(self, path: Path) -> None:
        """Remove an empty directory."""
        path.rmdir()
        fsync_dir(path.parent)


DISK = Disk()


def stage(paths: StatePaths, material: Material, disk: Disk = DISK) -> SlotName:
    """Store an identity beside the main one and those that wait already; it is durable when this returns.

    Raises:
        StorageError: it cannot be written; what was there before still is.
    """
    return _storing(paths, lambda: _stage(paths, material, disk))


def _stage(paths: StatePaths, material: Material, disk: Disk) -> SlotName:
    disk.make_dir(paths.next)
    name = next_name(material.serial, _slots(paths))
    unfinished = paths.next / f"{_UNFINISHED}{secrets.token_hex(4)}"
    disk.make_dir(unfinished)
    try:
        disk.write(unfinished / KEY, material.key_pem, 0o600)
        disk.write(unfinished / CERTIFICATE, material.certificate_pem, 0o644)
        disk.write(unfinished / PASSPORT, material.passport, 0o600)
        disk.rename(unfinished, paths.next / str(name))
    except (OSError, StorageError):
        with contextlib.suppress(
            OSError
        ):  # a full disk is asked again and again: leave nothing behind each time
            _discard(unfinished, disk)
        raise
    _discard_oldest(paths, disk)
    return name


def promote(paths: StatePaths, name: SlotName, disk: Disk = DISK) -> None:
    """Make a staged identity, which has been proved, the main one; older ones are dead and go first.

    Raises:
        PassportError: its passport does not verify; nothing was changed. StorageError: the disk refused; what is
        half done is finished by :func:`recover`.
    """
    _storing(paths, lambda: _promote(paths, name, disk))


def _promote(paths: StatePaths, name: SlotName, disk: Disk) -> None:
    slot = paths.next / str(name)
    passports.read(slot / PASSPORT, state.pinned_cluster(paths))
    for older in sorted(_slots(paths)):
        if older < name:
            _discard(paths.next / str(older), disk)
    main = {KEY: paths.identity_key, CERTIFICATE: paths.certificate, PASSPORT: paths.passport}
    for part in PROMOTION_ORDER:
        if (slot / part).exists():
            disk.rename(slot / part, main[part])
    disk.remove_dir(slot)


def recover(paths: StatePaths, disk: Disk = DISK) -> None:
    """Finish a promotion that was cut short and clear away what no longer counts.

    Raises:
        PassportError: the main passport, or one being promoted, does not verify; nothing was changed.
        StorageError: the disk refused.
    """
    if paths.next.is_dir():
        _storing(paths, lambda: _recover(paths, disk))


def _recover(paths: StatePaths, disk: Disk) -> None:
    decision = _decide(paths)
    if decision.roll_forward is not None:
        _promote(paths, decision.roll_forward, disk)
    for name in decision.discard:
        _discard(paths.next / str(name), disk)
    _discard_oldest(paths, disk)
    for path in paths.next.iterdir():
        if path.name.startswith(_UNFINISHED):
            _discard(path, disk)


def waiting(paths: StatePaths) -> tuple[IdentityFiles, ...]:
    """Return where the staged identities stand, the newest first; look after :func:`recover`.

    Raises:
        PassportError: the main passport does not verify. StorageError: the disk refused.
    """
    if not paths.next.is_dir():
        return ()
    names = _storing(paths, lambda: _decide(paths).waiting)
    return tuple(IdentityFiles(paths.next / str(name)) for name in names)


def _decide(paths: StatePaths) -> Decision:
    main = passports.read(paths.passport, state.pinned_cluster(paths))
    return decide(main.serial, _slots(paths))


def _slots(paths: StatePaths) -> dict[SlotName, frozenset[str]]:
    found = {}
    for path in paths.next.iterdir():
        name = SlotName.parse(path.name)
        if name is not None:
            found[name] = frozenset(item.name for item in path.iterdir())
    return found


def _discard_oldest(paths: StatePaths, disk: Disk) -> None:
    for name in sorted(_slots(paths))[: -LIMITS.staged_identities]:
        _discard(paths.next / str(name), disk)


def _discard(slot: Path, disk: Disk) -> None:
    # The passport first: without it the rest can never be taken for an identity, or for a promotion.
    for path in sorted(slot.iterdir(), key=lambda path: path.name != PASSPORT):
        disk.remove(path)
    with contextlib.suppress(FileNotFoundError):
        disk.remove_dir(slot)


def _storing(paths: StatePaths, work: Callable[[], T]) -> T:
    try:
        return work()
    except OSError as error:
        raise StorageError(
            f"cannot write the staged identity in {paths.next}: {error.strerror}",
            remedy="check that the state directory is writable by this user and has free space",
        ) from error
