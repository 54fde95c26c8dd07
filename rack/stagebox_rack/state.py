"""The rack's state directory: its identity at rest.

``state.flux`` is written last and is the commit point: without it there is no identity, with it everything it
needs is there. A passport that does not verify stops the rack; nothing here is ever wiped or replaced on
unsigned input. A renewed identity is staged under ``next/`` first: see ``identity/``.
"""

from __future__ import annotations

import json
import os
import pwd
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nacl.signing import SigningKey

from stagebox import passport as passports
from stagebox.certificates import load_certificates, public_ed25519, spiffe_identity
from stagebox.errors import KeyFileError, PassportError, StorageError
from stagebox.files import check_writable_dir, make_private_dir, write_atomic
from stagebox.keyfiles import encode_public, load_ed25519, load_public, save_private_key, signing_key
from stagebox.limits import LIMITS
from stagebox.passport import Passport
from stagebox.tls import client_context

SNAKE_VERSION = 1
API_PORT = 8443  # of the mixer's HTTPS, where an identity from before it was recorded does not say


@dataclass(frozen=True)
class IdentityFiles:
    """The three files of one identity, in the state directory itself or in a slot of ``next/``."""

    directory: Path

    @property
    def passport(self) -> Path:
        """The signed passport; its presence means enrolled."""
        return self.directory / "state.flux"

    @property
    def identity_key(self) -> Path:
        """The rack's Ed25519 key, made here and never sent."""
        return self.directory / "identity.key"

    @property
    def certificate(self) -> Path:
        """Client certificate and issuing CA, PEM."""
        return self.directory / "rack.pem"


@dataclass(frozen=True)
class StatePaths(IdentityFiles):
    """Where each file stands."""

    @property
    def next(self) -> Path:
        """Staged identities, see ``identity/recovery.py``."""
        return self.directory / "next"

    @property
    def trust(self) -> Path:
        """The newest signed trust bundle; ``ca.pem`` is made from it."""
        return self.directory / "trust.cbor"

    @property
    def denied(self) -> Path:
        """The newest signed deny list this rack has seen."""
        return self.directory / "denied.flux"

    @property
    def succession(self) -> Path:
        """Which key signed for which to follow it, CBOR."""
        return self.directory / "succession.cbor"

    @property
    def identity_lock(self) -> Path:
        """Held while the files of an identity are moved."""
        return self.directory / "identity.lock"

    @property
    def renewal_lock(self) -> Path:
        """Held by whoever renews."""
        return self.directory / "renewal.lock"

    @property
    def roots(self) -> Path:
        """The cluster's root CA, PEM."""
        return self.directory / "ca.pem"

    @property
    def cluster_public(self) -> Path:
        """The pinned cluster key."""
        return self.directory / "cluster.pub"

    @property
    def snake(self) -> Path:
        """Where the mixers are, JSON."""
        return self.directory / "snake.json"

    @property
    def wal(self) -> Path:
        """The write-ahead log."""
        return self.directory / "wal"

    @property
    def modules(self) -> Path:
        """What this rack runs of third parties' Wasm, see docs/reference/module-state.md."""
        return self.directory / "modules"


@dataclass(frozen=True)
class RackIdentity:
    """Everything a rack needs to prove who it is."""

    passport: Passport
    key: SigningKey = field(repr=False)
    chain: tuple[x509.Certificate, ...]
    roots_pem: bytes
    servers: tuple[str, ...]
    paths: StatePaths
    api: tuple[str, ...] = ()
    flux: bytes = field(default=b"", repr=False)
    slot: IdentityFiles | None = None

    @property
    def public(self) -> bytes:
        """The identity key's public half, 32 bytes."""
        return bytes(self.key.verify_key)

    def tls_context(self) -> ssl.SSLContext:
        """Return the client context of the snake.

        Raises:
            TlsError: certificate or key cannot be loaded.
        """
        files = self.slot if self.slot is not None else self.paths
        return client_context(self.roots_pem, files.certificate, files.identity_key)


@dataclass(frozen=True)
class Enrolled:
    """A verified enrollment, ready to be stored."""

    passport: bytes = field(repr=False)
    certificate_pem: bytes
    roots_pem: bytes
    cluster_public: bytes
    servers: tuple[str, ...]
    api: tuple[str, ...] = ()


def prepare(paths: StatePaths) -> None:
    """Make the directory and check that it takes files.

    Raises:
        StorageError: it does not.
    """
    make_private_dir(paths.directory)
    check_writable_dir(paths.directory, "--state-dir")


def own_key(paths: StatePaths) -> Ed25519PrivateKey:
    """Return the rack's identity key, making it on first use.

    Raises:
        KeyFileError: there is one that cannot be used; it is not replaced.
    """
    if not paths.identity_key.exists():
        save_private_key(paths.identity_key, Ed25519PrivateKey.generate(), None)
    return load_ed25519(paths.identity_key)


def store(paths: StatePaths, enrolled: Enrolled) -> None:
    """Write an enrollment; the passport comes last.

    Raises:
        StorageError: a file cannot be written. What was there before still works or is still incomplete.
    """
    # The operator's pin says which root counts now; a bundle of before would put its own back.
    paths.trust.unlink(missing_ok=True)
    write_atomic(paths.roots, enrolled.roots_pem, mode=0o644)
    write_atomic(paths.cluster_public, encode_public(enrolled.cluster_public), mode=0o644)
    write_atomic(paths.certificate, enrolled.certificate_pem, mode=0o644)
    snake = {"v": SNAKE_VERSION, "servers": list(enrolled.servers)}
    if enrolled.api:
        snake["api"] = list(enrolled.api)
    write_atomic(paths.snake, json.dumps(snake).encode())
    write_atomic(paths.passport, enrolled.passport)


def has_passport(paths: StatePaths) -> bool:
    """Tell whether a passport stands in the state directory, whatever it is worth.

    Raises:
        StorageError: the directory cannot be looked into, which is not the same as "not enrolled".
    """
    try:
        paths.passport.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise StorageError(
            f"cannot look into the state directory {paths.directory}: {error.strerror}",
            remedy="run as the user who owns it",
        ) from None
    return True


def require_enrolled(paths: StatePaths) -> None:
    """Demand that there is a passport.

    Raises:
        PassportError: there is none. StorageError: the directory cannot be looked into.
    """
    if not has_passport(paths):
        raise PassportError(
            f"this rack is not enrolled: there is no passport {paths.passport}",
            remedy="stagebox admin enroll --state-dir … --mixer … --token … --ca-pin …",
        )


def require_owner(paths: StatePaths) -> None:
    """Demand that we are the user whose rack this is: files that another one makes here would lock it out.

    Raises:
        StorageError: the passport is another user's.
    """
    owner = paths.passport.lstat().st_uid
    if owner != os.geteuid():
        try:
            name = pwd.getpwuid(owner).pw_name
        except KeyError:
            name = f"'#{owner}'"
        raise StorageError(
            f"the identity in {paths.directory} belongs to another user, {name}",
            remedy=f"run it as that user: sudo -u {name} stagebox …",
        )


def load(paths: StatePaths, *, machine_id: int, slot: IdentityFiles | None = None) -> RackIdentity:
    """Load and verify the rack's identity, the main one or that in ``slot``.

    It may be pending or suspended, and it may have ended: what it allows is not judged here.

    Raises:
        PassportError: not enrolled, or something does not verify (exit code 78).
        KeyFileError, StorageError: a file is missing or damaged.
    """
    require_enrolled(paths)
    files = slot if slot is not None else paths
    flux = read_passport(files.passport)
    passport = passports.verify(flux, pinned_cluster(paths))
    private = load_ed25519(files.identity_key)
    public = private.public_key().public_bytes_raw()
    passports.check_binding(passport, machine_id=machine_id, rack_public=public)
    chain = tuple(load_certificates(files.certificate))
    if public_ed25519(chain[0]) != public or spiffe_identity(chain[0]) != passport.rack_id:
        raise PassportError(
            f"the certificate {files.certificate} is not that of rack {passport.name!r}",
            remedy="restore the state directory from one backup, or enroll again",
        )
    servers, api = _snake(paths.snake)
    return RackIdentity(
        passport=passport,
        key=signing_key(private),
        chain=chain,
        roots_pem=_read(paths.roots),
        servers=servers,
        paths=paths,
        api=api,
        flux=flux,
        slot=slot,
    )


def read_passport(path: Path) -> bytes:
    """Return the bytes of a passport file, not yet verified.

    Raises:
        PassportError: missing or unreadable.
    """
    try:
        with path.open("rb") as stream:
            return stream.read(LIMITS.max_passport_bytes + 1)
    except OSError as error:
        raise PassportError(f"cannot read the passport {path}: {error.strerror}") from None


def pinned_cluster(paths: StatePaths) -> bytes:
    """Return the cluster key pinned at enrollment.

    Raises:
        PassportError: it is missing or damaged.
    """
    try:
        return load_public(paths.cluster_public)
    except KeyFileError as error:
        raise PassportError(
            f"the pinned cluster key is not usable: {error.message}",
            remedy="restore cluster.pub from a backup of this rack, or enroll again",
        ) from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}", remedy="enroll this rack again") from None


def _snake(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the addresses of the snake and of the API."""
    try:
        data = json.loads(_read(path))
        servers, api = data["servers"], data.get("api", [])
        if data["v"] != SNAKE_VERSION or not servers:
            raise ValueError
        for addresses, scheme in ((servers, "wss://"), (api, "https://")):
            if not isinstance(addresses, list):
                raise ValueError
            if not all(isinstance(item, str) and item.startswith(scheme) for item in addresses):
                raise ValueError
        return tuple(servers), tuple(api) or (_default_api(servers[0]),)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise StorageError(f"{path} is damaged", remedy="enroll this rack again") from None


def _default_api(server: str) -> str:
    host = urlsplit(server).hostname or ""
    return f"https://{f'[{host}]' if ':' in host else host}:{API_PORT}"
