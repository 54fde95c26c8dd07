"""Who is who: names, SPIFFE identities, roles and the machine id."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from blake3 import blake3

from stagebox.errors import ConfigError, InputError, VerificationError

DEFAULT_TENANT = "default"

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z")
_MACHINE_ID_FILES = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))


class Role(enum.StrEnum):
    """What a person or tool may do on the bus and at the API."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


def check_name(kind: str, value: str) -> str:
    """Return ``value`` if it is a legal name: 1–63 of ``a-z 0-9 -``, no hyphen at either end.

    Such a name is safe as one NATS subject token, one path component and one URI segment.

    Raises:
        InputError: it is not; ``kind`` says what was being named.
    """
    if not _NAME.match(value):
        raise InputError(
            f"{value!r} is not a legal {kind} name",
            remedy="use 1 to 63 of a-z, 0-9 and '-', not starting or ending with '-'",
        )
    return value


@dataclass(frozen=True)
class RackId:
    """A rack: ``spiffe://<cluster>/tenant/<tenant>/rack/<name>``."""

    kind: ClassVar[str] = "rack"
    cluster: str
    tenant: str
    name: str

    @property
    def uri(self) -> str:
        """The SPIFFE URI that stands in the certificate's SAN."""
        return f"spiffe://{self.cluster}/tenant/{self.tenant}/rack/{self.name}"


@dataclass(frozen=True)
class ClientId:
    """A person or tool: ``spiffe://<cluster>/client/<role>/<name>``."""

    kind: ClassVar[str] = "client"
    cluster: str
    role: Role
    name: str

    @property
    def uri(self) -> str:
        """The SPIFFE URI that stands in the certificate's SAN."""
        return f"spiffe://{self.cluster}/client/{self.role.value}/{self.name}"


@dataclass(frozen=True)
class MixerId:
    """A mixer: ``spiffe://<cluster>/mixer/<name>``."""

    kind: ClassVar[str] = "mixer"
    cluster: str
    name: str

    @property
    def uri(self) -> str:
        """The SPIFFE URI that stands in the certificate's SAN."""
        return f"spiffe://{self.cluster}/mixer/{self.name}"


SpiffeId = RackId | ClientId | MixerId


def parse_spiffe(uri: str) -> SpiffeId:
    """Parse a SPIFFE URI of this project, strictly.

    Raises:
        VerificationError: any other shape, or an illegal name in it.
    """
    if not uri.startswith("spiffe://"):
        raise VerificationError(f"{uri!r} is not a SPIFFE identity")
    parts = uri.removeprefix("spiffe://").split("/")
    try:
        match parts:
            case [cluster, "tenant", tenant, "rack", name]:
                return RackId(
                    check_name("cluster", cluster), check_name("tenant", tenant), check_name("rack", name)
                )
            case [cluster, "client", role, name]:
                return ClientId(check_name("cluster", cluster), Role(role), check_name("client", name))
            case [cluster, "mixer", name]:
                return MixerId(check_name("cluster", cluster), check_name("mixer", name))
    except (InputError, ValueError):
        pass
    raise VerificationError(f"{uri!r} is not an identity of a Stagebox cluster")


def machine_id(files: tuple[Path, ...] = _MACHINE_ID_FILES) -> int:
    """Return this machine's identity as a uint64.

    It is derived (BLAKE3 with an application key, as machine-id(5) asks) from ``/etc/machine-id``, so the
    passport binds to the machine without publishing the machine id itself. 0 is never returned.

    Raises:
        ConfigError: the machine has no id.
    """
    for path in files:
        try:
            text = path.read_text("ascii").strip()
        except (OSError, UnicodeDecodeError):
            continue
        if re.fullmatch(r"[0-9a-f]{32}", text):
            digest = blake3(bytes.fromhex(text), derive_key_context="stagebox.machine_id.v1").digest(8)
            return int.from_bytes(digest, "big") or 1
    raise ConfigError(
        f"this machine has no id: {files[0]} is missing or malformed",
        remedy="run systemd-machine-id-setup, or set STAGEBOX_RACK_MACHINE_ID",
    )
