"""``keys gen-cluster``: make every key of a new cluster at once.

Rules:
- Everything is written into a fresh sibling directory, made durable, and renamed into place as the last
  step: a failure leaves nothing half-made, and nothing that exists is ever overwritten.
- An account's own NATS key is thrown away: its users are signed by its signing key, and the offline operator
  key can give the account another signing key.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from stagebox.certificates import root_pin
from stagebox.errors import KeyFileError, StorageError
from stagebox.files import fsync_dir, make_private_dir, write_new
from stagebox.identity import check_name
from stagebox.keyfiles import PrivateKey, save_private_key
from stagebox_keys import layout
from stagebox_keys.authority import ClusterAuthority
from stagebox_keys.ca import make_issuing, make_root
from stagebox_keys.cluster_file import ClusterInfo
from stagebox_keys.nats_jwt import Account, account_jwt, operator_jwt
from stagebox_keys.nkey import Nkey, NkeyKind

_PUBLIC_MODE = 0o644

# What racks reach of the mixer's storage: JetStream answers to whatever reply subject a client names, so in one
# account a rack could make it write to the registry. These answers stay in the racks' account.
SNAKE_SERVICES = ("rack.*.wal", "$JS.API.DIRECT.GET.WAL.rack.*.wal")


@dataclass(frozen=True)
class NewCluster:
    """What ``generate_cluster`` made; ``files`` are relative to ``directory``."""

    directory: Path
    info: ClusterInfo
    ca_pin: str
    files: tuple[str, ...]
    encrypted: bool


@dataclass(frozen=True)
class _NatsTree:
    """The NATS side of a new cluster."""

    operator: Nkey
    signing: dict[str, Nkey]
    callout: Nkey
    jwts: dict[str, str]
    ids: dict[str, str]


def generate_cluster(directory: Path, name: str, passphrase: bytes | None, now: datetime) -> NewCluster:
    """Make the keys of cluster ``name`` under ``directory``, which must not exist or be empty.

    Raises:
        InputError: ``name`` is not a legal cluster name.
        KeyFileError: ``directory`` already holds something.
        StorageError: the directory cannot be written.
    """
    check_name("cluster", name)
    refuse_existing(directory)
    staging = directory.absolute().with_name(f".{directory.name}.new-{secrets.token_hex(4)}")
    try:
        make_private_dir(directory.absolute().parent)
        make_private_dir(staging)
        info, pin = _write_cluster(staging, name, passphrase, now)
        for path in sorted(staging.rglob("*"), reverse=True):
            if path.is_dir():
                fsync_dir(path)
        fsync_dir(staging)
        files = tuple(sorted(_files(staging)))
        move_into_place(staging, directory)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return NewCluster(directory, info, pin, files, passphrase is not None)


def refuse_existing(directory: Path) -> None:
    """Refuse a directory that holds anything.

    Raises:
        KeyFileError: it does, or it is not a directory.
        StorageError: it cannot be looked into.
    """
    try:
        held = sorted(entry.name for entry in directory.iterdir())
    except FileNotFoundError:
        return
    except NotADirectoryError:
        held = [directory.name]
    except OSError as error:
        raise StorageError(f"cannot look into {directory}: {error.strerror}") from error
    if held:
        shown = ", ".join(held[:4]) + (", …" if len(held) > 4 else "")
        raise KeyFileError(
            f"{directory} already holds {shown}; existing keys are never overwritten",
            remedy="choose a directory that does not exist yet, or move the old one away yourself",
        )


def move_into_place(staging: Path, directory: Path) -> None:
    """Rename ``staging`` to ``directory``; an empty directory there is replaced, anything else refused.

    Raises:
        KeyFileError: something appeared there meanwhile.
        StorageError: the rename failed.
    """
    try:
        staging.rename(directory)
        fsync_dir(directory.absolute().parent)
    except OSError as error:
        refuse_existing(directory)
        raise StorageError(
            f"cannot create {directory}: {error.strerror}",
            remedy=f"check that {directory.absolute().parent} is writable by this user",
        ) from error


def _write_cluster(top: Path, name: str, passphrase: bytes | None, now: datetime) -> tuple[ClusterInfo, str]:
    offline, mixer = top / layout.OFFLINE, top / layout.MIXER
    make_private_dir(offline)
    make_private_dir(mixer)
    make_private_dir(mixer / layout.NATS)

    root_key, issuing_key = _p256(), _p256()
    root = make_root(name, root_key, now)
    issuing = make_issuing(name, issuing_key.public_key(), root, root_key, now)
    authority_key = Ed25519PrivateKey.generate()
    nats = _make_nats(name, int(now.timestamp()))
    info = ClusterInfo(
        name,
        now,
        nats.operator.public,
        nats.ids["sys"],
        nats.ids["auth"],
        nats.ids["stagebox"],
        nats.ids["store"],
    )

    private: dict[Path, PrivateKey] = {
        offline / layout.ROOT_KEY: root_key,
        offline / layout.OPERATOR_KEY: nats.operator.private,
        mixer / layout.ISSUING_KEY: issuing_key,
        mixer / layout.AUTHORITY_KEY: authority_key,
        mixer / layout.STORAGE_KEY: Ed25519PrivateKey.generate(),
        mixer / layout.NATS / layout.CALLOUT_KEY: nats.callout.private,
    }
    for account, signing in nats.signing.items():
        private[mixer / layout.NATS / layout.account_signing_key(account)] = signing.private
    root_pem, issuing_pem = (cert.public_bytes(Encoding.PEM) for cert in (root, issuing))
    cluster_pub = ClusterAuthority(authority_key).public_pem
    public = {
        offline / layout.ROOT_CERT: root_pem,
        mixer / layout.CLUSTER_TOML: info.encode(),
        mixer / layout.CA_PEM: root_pem,
        mixer / layout.ISSUING_CERT: issuing_pem,
        mixer / layout.CHAIN_PEM: issuing_pem + root_pem,
        mixer / layout.CLUSTER_PUB: cluster_pub,
        top / layout.CA_PEM: root_pem,
        top / layout.CLUSTER_PUB: cluster_pub,
    }
    for file_name, token in nats.jwts.items():
        public[mixer / layout.NATS / file_name] = token.encode("ascii") + b"\n"

    for path, key in private.items():
        save_private_key(path, key, passphrase)
    for path, data in public.items():
        write_new(path, data, mode=_PUBLIC_MODE)
    return info, root_pin(root)


def _make_nats(cluster: str, issued_s: int) -> _NatsTree:
    operator, callout = Nkey.generate(NkeyKind.OPERATOR), Nkey.generate(NkeyKind.USER)
    names = ("sys", "auth", "stagebox", "store")
    ids = {name: Nkey.generate(NkeyKind.ACCOUNT).public for name in names}
    signing = {name: Nkey.generate(NkeyKind.ACCOUNT) for name in names}
    accounts = {
        "sys": Account("SYS", ids["sys"], (signing["sys"].public,)),
        "auth": Account(
            "AUTH",
            ids["auth"],
            (signing["auth"].public,),
            auth_users=(callout.public,),
            allowed_accounts=(ids["stagebox"],),
        ),
        "stagebox": Account(
            "STAGEBOX",
            ids["stagebox"],
            (signing["stagebox"].public,),
            service_imports=tuple((subject, ids["store"]) for subject in SNAKE_SERVICES),
        ),
        "store": Account(
            "STORE", ids["store"], (signing["store"].public,), jetstream=True, service_exports=SNAKE_SERVICES
        ),
    }
    jwts = {
        layout.account_jwt(name): account_jwt(operator, account, issued_s=issued_s)
        for name, account in accounts.items()
    }
    jwts[layout.OPERATOR_JWT] = operator_jwt(
        operator, name=cluster, system_account=ids["sys"], issued_s=issued_s
    )
    return _NatsTree(operator, signing, callout, jwts, ids)


def _p256() -> EllipticCurvePrivateKey:
    return generate_private_key(SECP256R1())


def _files(top: Path) -> Iterator[str]:
    return (str(path.relative_to(top)) for path in top.rglob("*") if path.is_file())
