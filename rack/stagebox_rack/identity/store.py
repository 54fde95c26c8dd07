"""The identities of a state directory, loaded and kept: the one place where files and what runs meet.

Blocking methods are for a worker thread; they hold the identity lock, so that ``stagebox rack renew`` and the running
rack never move the same files at once. A staged identity that does not load is reported and left where it is: the
main one still works.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nacl.signing import SigningKey

from stagebox.certificates import to_pem
from stagebox.errors import PassportError, StageboxError, StorageError
from stagebox.identity import machine_id
from stagebox.keyfiles import encode_private_key
from stagebox.passport import Passport
from stagebox_rack import state
from stagebox_rack.identity import staging, succession, trust
from stagebox_rack.identity.lock import locked
from stagebox_rack.identity.recovery import SlotName
from stagebox_rack.identity.staging import DISK, Disk, Material
from stagebox_rack.limits import LIMITS
from stagebox_rack.settings import RackSettings
from stagebox_rack.state import IdentityFiles, RackIdentity, StatePaths

log = structlog.get_logger()


@dataclass(frozen=True)
class Issued:
    """A verified new identity. ``trust`` is a verified bundle with its roots, None where none came with it."""

    passport: Passport
    flux: bytes
    key: SigningKey
    chain: tuple[x509.Certificate, ...]
    trust: tuple[bytes, tuple[x509.Certificate, ...]] | None = None

    def material(self) -> Material:
        """Return what is stored of it."""
        private = Ed25519PrivateKey.from_private_bytes(bytes(self.key))
        return Material(
            self.passport.serial, encode_private_key(private, None), to_pem(self.chain), self.flux
        )


@dataclass(frozen=True)
class Held:
    """The identities that load: the one proved last, and those that wait to be proved, the newest first."""

    main: RackIdentity
    waiting: tuple[RackIdentity, ...] = ()

    @property
    def staged(self) -> RackIdentity | None:
        """The newest that waits."""
        return self.waiting[0] if self.waiting else None

    @property
    def newest(self) -> RackIdentity:
        """What the cluster issued last."""
        return self.waiting[0] if self.waiting else self.main

    @property
    def all(self) -> tuple[RackIdentity, ...]:
        """Every identity held, the newest first."""
        return (*self.waiting, self.main)


class IdentityStore:
    """The state directory of one machine."""

    def __init__(self, paths: StatePaths, machine_id: int, disk: Disk = DISK) -> None:
        self.paths = paths
        self.machine_id = machine_id
        self._disk = disk
        self._seen: tuple[object, ...] = ()

    def open(self) -> Held:
        """Put right what a crash left, and load the main and the staged identities.

        Raises:
            PassportError: not enrolled, or the main identity does not verify (exit code 78).
            KeyFileError, StorageError: a file of the main identity is missing or damaged.
        """
        if not state.has_passport(self.paths) or not (self.paths.next.is_dir() or self.paths.trust.exists()):
            # Nothing to put right: a directory that takes no writes is still looked into, and told as what it is.
            self._seen = self._stamp()
            return Held(state.load(self.paths, machine_id=self.machine_id))
        with locked(self.paths.identity_lock, wait=LIMITS.identity_lock_wait):
            self._seen = self._stamp()
            staging.recover(self.paths, self._disk)
            self._heal_trust()
            main = state.load(self.paths, machine_id=self.machine_id)
            slots = staging.waiting(self.paths)
            staged = [self._load_staged(main, slot) for slot in slots]
            return Held(main, tuple(identity for identity in staged if identity is not None))

    def _heal_trust(self) -> None:
        try:
            trust.heal(self.paths, state.pinned_cluster(self.paths))
        except StorageError as error:
            # The roots of before still hold, and a full disk must not keep a rack from capturing.
            log.warning("trust_not_healed", reason=error.message)

    def _load_staged(self, main: RackIdentity, slot: IdentityFiles) -> RackIdentity | None:
        try:
            staged = state.load(self.paths, machine_id=self.machine_id, slot=slot)
            staged.tls_context()
            check_succession(main.passport, staged.passport)
        except StageboxError as error:
            log.error("staged_identity_unusable", slot=str(slot.directory), reason=error.message)
            return None
        return staged

    def stage(self, held: Held, issued: Issued) -> RackIdentity:
        """Store a new identity beside the main one and load it back.

        Raises:
            PassportError: it does not succeed what is held. StorageError: it cannot be written. Nothing is lost.
        """
        for identity in held.all:
            check_succession(identity.passport, issued.passport)
        with locked(self.paths.identity_lock, wait=LIMITS.identity_lock_wait):
            if issued.trust is not None:
                trust.store_bundle(self.paths, issued.trust[0], list(issued.trust[1]))
            origin = held.newest
            publics = {identity.public for identity in held.all}
            if issued.passport.rack_public not in publics:
                succession.record(self.paths, origin.passport.name, issued.key, origin.public, publics)
            name = staging.stage(self.paths, issued.material(), self._disk)
            self._seen = self._stamp()
            return self._load(name)

    def promote(self, proved: RackIdentity) -> RackIdentity | None:
        """Make a proved identity the main one and return it as such; None if a newer one was staged over it.

        Raises:
            PassportError, StorageError: it cannot be done; the rack goes on with what it holds.
        """
        name = SlotName.parse(proved.slot.directory.name) if proved.slot is not None else None
        if name is None:
            raise PassportError("this is not a staged identity")
        with locked(self.paths.identity_lock, wait=LIMITS.identity_lock_wait):
            if not (self.paths.next / str(name)).is_dir():
                return None
            staging.promote(self.paths, name, self._disk)
            self._seen = self._stamp()
            return state.load(self.paths, machine_id=self.machine_id)

    def _load(self, name: SlotName) -> RackIdentity:
        slot = IdentityFiles(self.paths.next / str(name))
        return state.load(self.paths, machine_id=self.machine_id, slot=slot)

    def changed(self) -> bool:
        """Whether another process staged or enrolled since this one last looked; cheap enough to ask every second."""
        return self._stamp() != self._seen

    def _stamp(self) -> tuple[object, ...]:
        return (_stamp(self.paths.passport), _stamp(self.paths.next))


def identity_store(settings: RackSettings) -> IdentityStore:
    """Return the state directory that the settings name, on this machine."""
    own_machine = settings.machine_id if settings.machine_id is not None else machine_id()
    return IdentityStore(StatePaths(settings.state_dir), own_machine)


def check_succession(held: Passport, fresh: Passport) -> None:
    """Demand that ``fresh`` is of the same rack as ``held`` and not older.

    Raises:
        PassportError: it is somebody else's, or older.
    """
    if (fresh.cluster_public, fresh.rack_id, fresh.machine_id) != (
        held.cluster_public, held.rack_id, held.machine_id,
    ):  # fmt: skip
        raise PassportError(f"the new passport is not of rack {held.name!r} of cluster {held.cluster_id!r}")
    if fresh.serial < held.serial:
        raise PassportError(
            f"the new passport has serial {fresh.serial}, ours has {held.serial}: it is older",
            remedy="it was refused; look at the mixer's audit for where it came from",
        )


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns
