"""``cluster.toml``: what a cluster is called and which NATS operator and accounts are its own.

Holds nothing secret. An unknown ``format`` is refused; unknown keys are ignored.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from stagebox.errors import InputError, KeyFileError
from stagebox.identity import check_name
from stagebox_keys.limits import LIMITS
from stagebox_keys.nkey import NkeyKind, decode_public

FORMAT = 1


@dataclass(frozen=True)
class ClusterInfo:
    """The public facts of one cluster.

    ``name`` is also its ``ClusterID`` in passports and the trust domain of its SPIFFE identities.
    """

    name: str
    created: datetime
    operator: str
    system_account: str
    auth_account: str
    stagebox_account: str
    store_account: str

    def encode(self) -> bytes:
        """Return the file's bytes."""
        return (
            f"format = {FORMAT}\n"
            f'name = "{self.name}"\n'
            f"created = {self.created.astimezone(UTC).isoformat(timespec='seconds')}\n"
            "\n[nats]\n"
            f'operator = "{self.operator}"\n'
            f'system_account = "{self.system_account}"\n'
            f'auth_account = "{self.auth_account}"\n'
            f'stagebox_account = "{self.stagebox_account}"\n'
            f'store_account = "{self.store_account}"\n'
        ).encode()

    @classmethod
    def load(cls, path: Path) -> ClusterInfo:
        """Read and check ``cluster.toml``.

        Raises:
            KeyFileError: missing, damaged or of another format.
        """
        try:
            with path.open("rb") as file:
                data = file.read(LIMITS.cluster_toml_bytes + 1)
        except OSError as error:
            raise KeyFileError(
                f"cannot read {path}: {error.strerror}",
                remedy="name the mixer directory that `stagebox keys gen-cluster` made",
            ) from None
        try:
            if len(data) > LIMITS.cluster_toml_bytes:
                raise ValueError(f"larger than {LIMITS.cluster_toml_bytes} bytes")
            return cls._parse(tomllib.loads(data.decode("utf-8")))
        except (ValueError, KeyError, TypeError, InputError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise KeyFileError(
                f"{path} is damaged: {reason}", remedy="restore the file from your backup"
            ) from None

    @classmethod
    def _parse(cls, fields: dict[str, object]) -> ClusterInfo:
        if fields["format"] != FORMAT:
            raise ValueError(f"format {fields['format']!r}, this version reads format {FORMAT}")
        nats, created = fields["nats"], fields["created"]
        if not isinstance(nats, dict) or not isinstance(created, datetime):
            raise TypeError("[nats] must be a table and created a date-time")
        accounts = [
            _public(nats[key], NkeyKind.ACCOUNT)
            for key in ("system_account", "auth_account", "stagebox_account", "store_account")
        ]
        return cls(
            check_name("cluster", _text(fields["name"])),
            created,
            _public(nats["operator"], NkeyKind.OPERATOR),
            *accounts,
        )


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError(f"{value!r} is not a text")
    return value


def _public(value: object, kind: NkeyKind) -> str:
    text = _text(value)
    decode_public(text, kind)
    return text
