"""Everything secret a mixer needs, loaded and checked against each other before anything starts.

A file that is missing, damaged, open to other users or not part of this cluster raises ``KeyFileError``: the
mixer stops. Nothing is replaced, nothing is skipped.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stagebox.errors import InputError, KeyFileError, VerificationError
from stagebox.keyfiles import load_ed25519, load_public
from stagebox_keys import layout, nats_jwt
from stagebox_keys.authority import ClusterAuthority
from stagebox_keys.ca import IssuingAuthority
from stagebox_keys.cluster_file import ClusterInfo
from stagebox_keys.limits import LIMITS
from stagebox_keys.nkey import Nkey, NkeyKind
from stagebox_keys.storage import derive_key

_RESTORE = "restore the file from your backup"


@dataclass(frozen=True)
class NatsAccount:
    """One account of the embedded or external NATS: its id, its token and the key that signs its users."""

    name: str
    id: str
    jwt: str
    signing: Nkey


@dataclass(frozen=True)
class NatsKeys:
    """The NATS operator's token, the four accounts and the callout service's own user key."""

    operator_jwt: str
    operator: str
    system: NatsAccount
    auth: NatsAccount
    stagebox: NatsAccount
    store: NatsAccount
    callout: Nkey


@dataclass(frozen=True)
class MixerKeys:
    """The loaded keys of one cluster."""

    directory: Path
    cluster: ClusterInfo
    issuing: IssuingAuthority
    authority: ClusterAuthority
    nats: NatsKeys
    _storage: Ed25519PrivateKey = field(repr=False)

    def storage_key(self, label: str) -> bytes:
        """Return the 32-byte data-at-rest key for ``label`` (see :mod:`stagebox_keys.storage`)."""
        return derive_key(self._storage, label)


def load_mixer_keys(directory: Path, passphrase: bytes | None, *, now: datetime) -> MixerKeys:
    """Load the ``mixer/`` directory that ``gen-cluster`` made.

    Raises:
        KeyFileError: any file of it cannot be used, or they do not belong together.
    """
    _check_private(directory)
    cluster = ClusterInfo.load(directory / layout.CLUSTER_TOML)
    authority = ClusterAuthority.load(directory / layout.AUTHORITY_KEY, passphrase)
    public_path = directory / layout.CLUSTER_PUB
    if load_public(public_path) != authority.public:
        raise _mismatch(directory / layout.AUTHORITY_KEY, f"the key of {public_path}")
    return MixerKeys(
        directory=directory,
        cluster=cluster,
        issuing=IssuingAuthority.load(directory, passphrase),
        authority=authority,
        nats=_load_nats(directory / layout.NATS, cluster, passphrase, now),
        _storage=load_ed25519(directory / layout.STORAGE_KEY, passphrase),
    )


def _load_nats(directory: Path, cluster: ClusterInfo, passphrase: bytes | None, now: datetime) -> NatsKeys:
    now_s = int(now.timestamp())
    operator_path = directory / layout.OPERATOR_JWT
    operator = _read_token(operator_path)
    _verified(operator_path, operator, "operator", cluster.operator, cluster.operator, now_s)
    callout = Nkey(NkeyKind.USER, load_ed25519(directory / layout.CALLOUT_KEY, passphrase))

    def account(name: str, account_id: str) -> NatsAccount:
        path = directory / layout.account_jwt(name)
        token = _read_token(path)
        nats = _verified(path, token, "account", cluster.operator, account_id, now_s)
        key_path = directory / layout.account_signing_key(name)
        signing = Nkey(NkeyKind.ACCOUNT, load_ed25519(key_path, passphrase))
        if signing.public not in _texts(nats.get("signing_keys")):
            raise _mismatch(key_path, f"a signing key of {path}")
        if name == "auth" and callout.public not in _auth_users(nats):
            raise _mismatch(directory / layout.CALLOUT_KEY, f"an auth user of {path}")
        return NatsAccount(name, account_id, token, signing)

    return NatsKeys(
        operator_jwt=operator,
        operator=cluster.operator,
        system=account("sys", cluster.system_account),
        auth=account("auth", cluster.auth_account),
        stagebox=account("stagebox", cluster.stagebox_account),
        store=account("store", cluster.store_account),
        callout=callout,
    )


def _verified(path: Path, token: str, kind: str, issuer: str, subject: str, now_s: int) -> dict[str, object]:
    try:
        claims = nats_jwt.verify(token, now_s=now_s, kind=kind, issuer=issuer)
    except (InputError, VerificationError) as error:
        raise KeyFileError(f"{path}: {error.message}", remedy=_RESTORE) from error
    if claims.get("sub") != subject:
        raise _mismatch(path, f"the token of {subject}, which cluster.toml names")
    nats = claims["nats"]
    return nats if isinstance(nats, dict) else {}


def _read_token(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(LIMITS.nats_jwt_bytes + 1)
        return data.decode("ascii").strip()
    except OSError as error:
        raise KeyFileError(f"cannot read the NATS token {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise KeyFileError(f"{path} is not a NATS token", remedy=_RESTORE) from None


def _auth_users(nats: dict[str, object]) -> list[str]:
    authorization = nats.get("authorization")
    return _texts(authorization.get("auth_users")) if isinstance(authorization, dict) else []


def _texts(value: object) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _check_private(directory: Path) -> None:
    try:
        info = directory.stat()
    except OSError as error:
        raise KeyFileError(
            f"cannot open the mixer directory {directory}: {error.strerror}",
            remedy="make one with `stagebox keys gen-cluster`, or name it with --dir",
        ) from None
    if not stat.S_ISDIR(info.st_mode):
        raise KeyFileError(f"{directory} is not a directory", remedy="name the mixer directory with --dir")
    if stat.S_IMODE(info.st_mode) & 0o022:
        raise KeyFileError(
            f"the mixer directory {directory} can be written by other users "
            f"(mode {stat.S_IMODE(info.st_mode):04o})",
            remedy=f"chmod 700 {directory}",
        )


def _mismatch(path: Path, expected: str) -> KeyFileError:
    return KeyFileError(f"{path} is not {expected}", remedy="restore the whole directory from one backup")
