"""``keys gen-client``: the certificate of a person or tool, in files that any NATS or HTTPS client reads."""

from __future__ import annotations

import secrets
import shutil
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

from stagebox.certificates import fingerprint, to_pem
from stagebox.errors import InputError
from stagebox.files import fsync_dir, make_private_dir, write_new
from stagebox.identity import ClientId, Role, check_name
from stagebox.keyfiles import encode_public, load_public, save_private_key
from stagebox_keys import layout
from stagebox_keys.ca import IssuingAuthority
from stagebox_keys.cluster import move_into_place, refuse_existing
from stagebox_keys.cluster_file import ClusterInfo
from stagebox_keys.limits import LIMITS

_PUBLIC_MODE = 0o644


@dataclass(frozen=True)
class NewClient:
    """What ``generate_client`` made."""

    directory: Path
    identity: ClientId
    fingerprint: str
    not_after: datetime
    files: tuple[str, ...]


def mixer_directory(directory: Path) -> Path:
    """Return the mixer directory that ``directory`` is or holds."""
    inner = directory / layout.MIXER
    return inner if inner.is_dir() else directory


def generate_client(
    directory: Path,
    role: Role,
    name: str,
    out: Path,
    passphrase: bytes | None,
    now: datetime,
    days: int = LIMITS.client_certificate_days,
) -> NewClient:
    """Issue a client certificate from the cluster in ``directory`` into the new directory ``out``.

    The client's key is P-256, which stock clients in every language take, and not encrypted, because most of
    them cannot ask for a passphrase. ``passphrase`` opens the issuing CA.

    Raises:
        InputError: illegal name or number of days.
        KeyFileError: ``out`` holds something, or the issuing CA cannot be used.
        StorageError: ``out`` cannot be written.
    """
    check_name("client", name)
    if not 1 <= days <= LIMITS.client_certificate_max_days:
        raise InputError(f"--days {days} is not within 1 and {LIMITS.client_certificate_max_days}")
    refuse_existing(out)
    mixer = mixer_directory(directory)
    cluster = ClusterInfo.load(mixer / layout.CLUSTER_TOML)
    issuing = IssuingAuthority.load(mixer, passphrase)
    identity = ClientId(cluster.name, role, name)
    key = generate_private_key(SECP256R1())
    certificate = issuing.sign_client(key.public_key(), identity, now=now, days=days)
    public = {
        layout.CLIENT_CERT: to_pem([certificate, issuing.certificate]),
        layout.CA_PEM: issuing.root_pem,
        layout.CLUSTER_PUB: encode_public(load_public(mixer / layout.CLUSTER_PUB)),
        layout.CLIENT_PROFILE: _profile(identity, out).encode("utf-8"),
    }
    staging = out.absolute().with_name(f".{out.name}.new-{secrets.token_hex(4)}")
    try:
        make_private_dir(staging)
        save_private_key(staging / layout.CLIENT_KEY, key, None)
        for file_name, data in public.items():
            write_new(staging / file_name, data, mode=_PUBLIC_MODE)
        fsync_dir(staging)
        move_into_place(staging, out)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    files = tuple(sorted((layout.CLIENT_KEY, *public)))
    return NewClient(out, identity, fingerprint(certificate), certificate.not_valid_after_utc, files)


def _profile(identity: ClientId, out: Path) -> str:
    quoted = str(out.absolute()).replace("\\", "\\\\").replace('"', '\\"')
    return (
        f"# {identity.uri}\n"
        "# Use it with: stagebox --config profile.toml tail 'rack.>'\n"
        "# Change the host names to the mixer's; change identity if this directory moves.\n"
        "[client]\n"
        'mixer = "https://localhost:8443"\n'
        'servers = ["wss://localhost:4222"]\n'
        f'identity = "{quoted}"\n'
    )
