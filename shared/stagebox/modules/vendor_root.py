"""A vendor root: whose modules a mixer imports, until when, and what they may be named and ask for.

It is a TOML file. The vendor makes it with its key; the mixer's operator narrows it and puts it with the others. A key
that is not known is refused: a misspelt ``revoked`` must not leave a vendor trusted.
"""

from __future__ import annotations

import datetime
import fnmatch
import json
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from nacl.bindings import crypto_core_ed25519_is_valid_point

from stagebox.errors import InputError
from stagebox.identity import check_name
from stagebox.modules.capabilities import Capability
from stagebox.modules.limits import LIMITS
from stagebox.modules.statement import in_order, key_id

VERSION = 1
_SECOND = 10**9
_PUBLIC = re.compile(r"[0-9a-f]{64}\Z")
_PATTERN = re.compile(r"[a-z0-9*?\[\]!-]+\Z")
_REQUIRED = ("version", "owner", "public", "key_id", "not_before", "not_after", "capabilities", "modules")
_KNOWN = frozenset({*_REQUIRED, "revoked", "reason"})


@dataclass(frozen=True)
class VendorRoot:
    """One vendor's key (raw Ed25519, 32 bytes) and what it is trusted for. Times are ns since the Unix epoch."""

    owner: str
    public: bytes
    not_before: int
    not_after: int
    capabilities: tuple[Capability, ...]
    modules: tuple[str, ...]
    revoked: bool = False
    reason: str = ""

    @property
    def key_id(self) -> bytes:
        """The id by which statements name the key."""
        return key_id(self.public)

    def allows_name(self, name: str) -> bool:
        """Say if a module of that name may be the vendor's."""
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.modules)

    def render(self) -> str:
        """Return the TOML text; times are cut to whole seconds."""
        lines = [
            f"version = {VERSION}",
            f"owner = {_text(self.owner)}",
            f"public = {_text(self.public.hex())}",
            f"key_id = {_text(self.key_id.hex())}",
            f"not_before = {_time(self.not_before)}",
            f"not_after = {_time(self.not_after)}",
            f"capabilities = {_texts(capability.value for capability in self.capabilities)}",
            f"modules = {_texts(self.modules)}",
            f"revoked = {'true' if self.revoked else 'false'}",
            f"reason = {_text(self.reason)}",
        ]
        return "\n".join(lines) + "\n"


class VendorRoots:
    """Vendor roots by key id."""

    def __init__(self, roots: Iterable[VendorRoot]) -> None:
        """Collect roots.

        Raises:
            InputError: two of them have one key: which of them counts would be luck.
        """
        self._roots: dict[bytes, VendorRoot] = {}
        for root in roots:
            other = self._roots.setdefault(root.key_id, root)
            if other is not root:
                raise InputError(
                    f"the vendors {other.owner!r} and {root.owner!r} have the same key",
                    remedy="keep one of the two files",
                )

    def find(self, key_id: bytes, /) -> VendorRoot | None:
        """Return the root of that key id, or None."""
        return self._roots.get(key_id)


def parse(text: str, what: str) -> VendorRoot:
    """Parse a vendor root; ``what`` names the text in errors, as a file's name.

    Raises:
        InputError: not TOML, an unknown or missing key, or a value that does not belong there.
    """
    if len(text.encode("utf-8", "surrogatepass")) > LIMITS.max_vendor_root_bytes:
        raise InputError(f"{what} is larger than {LIMITS.max_vendor_root_bytes} bytes")
    try:
        values = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"{what} is not TOML: {error}") from None
    unknown, missing = sorted(values.keys() - _KNOWN), [key for key in _REQUIRED if key not in values]
    if unknown:
        raise InputError(f"{what} has an unknown key {unknown[0]!r}")
    if missing:
        raise InputError(f"{what} has no {missing[0]!r}")
    if type(values["version"]) is not int or values["version"] != VERSION:
        raise InputError(f"{what} has version {values['version']!r}, this software understands {VERSION}")
    not_before, not_after = (_parse_time(values[key], what, key) for key in ("not_before", "not_after"))
    if not_before >= not_after:
        raise InputError(f"{what} ends before it begins")
    root = VendorRoot(
        owner=_parse_owner(values["owner"], what),
        public=_parse_public(values["public"], what),
        not_before=not_before,
        not_after=not_after,
        capabilities=_parse_capabilities(values["capabilities"], what),
        modules=_parse_patterns(values["modules"], what),
        revoked=_parse_flag(values.get("revoked", False), what),
        reason=_parse_text(values.get("reason", ""), what, "reason"),
    )
    if values["key_id"] != root.key_id.hex():
        raise InputError(f"{what} has a key_id that is not that of its public key, {root.key_id.hex()}")
    return root


def _parse_text(value: Any, what: str, key: str) -> str:
    if not isinstance(value, str) or not (value == "" or value.isprintable()):
        raise InputError(f"{what}: {key} is not printable text")
    return value


def _parse_owner(value: Any, what: str) -> str:
    try:
        return check_name("vendor", _parse_text(value, what, "owner"))
    except InputError as error:
        raise InputError(f"{what}: {error.message}", remedy=error.remedy) from None


def _parse_flag(value: Any, what: str) -> bool:
    if not isinstance(value, bool):
        raise InputError(f"{what}: revoked is neither true nor false")
    return value


def _parse_public(value: Any, what: str) -> bytes:
    if not isinstance(value, str) or not _PUBLIC.match(value):
        raise InputError(f"{what}: public is not an Ed25519 key in 64 lower-case hexadecimal digits")
    public = bytes.fromhex(value)
    if not crypto_core_ed25519_is_valid_point(public):
        raise InputError(f"{what}: public is not an Ed25519 key")
    return public


def _parse_time(value: Any, what: str, key: str) -> int:
    if not isinstance(value, datetime.datetime) or value.utcoffset() != datetime.timedelta(0):
        raise InputError(
            f"{what}: {key} is not a time in UTC", remedy="write it without quotes: 2026-01-31T00:00:00Z"
        )
    since = value - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    time_ns = (since.days * 86_400 + since.seconds) * _SECOND + since.microseconds * 1_000
    if time_ns < 0:
        raise InputError(f"{what}: {key} is before 1970")
    return time_ns


def _parse_list(value: Any, what: str, key: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InputError(f"{what}: {key} is not a list of texts")
    if len(set(value)) != len(value):
        raise InputError(f"{what}: {key} names something twice")
    return value


def _parse_capabilities(value: Any, what: str) -> tuple[Capability, ...]:
    try:
        return in_order([Capability(item) for item in _parse_list(value, what, "capabilities")])
    except ValueError as error:
        known = ", ".join(capability.value for capability in Capability)
        raise InputError(f"{what}: {error}", remedy=f"there are {known}") from None


def _parse_patterns(value: Any, what: str) -> tuple[str, ...]:
    patterns = _parse_list(value, what, "modules")
    for pattern in patterns:
        if len(pattern) > LIMITS.max_name_chars or not _PATTERN.match(pattern):
            raise InputError(
                f"{what}: {pattern!r} matches no module name",
                remedy="write a name, or a pattern such as eq-*",
            )
    if len(patterns) > LIMITS.max_patterns:
        raise InputError(f"{what}: modules lists more than {LIMITS.max_patterns} patterns")
    return tuple(patterns)


def _time(time_ns: int) -> str:
    whole = datetime.datetime.fromtimestamp(time_ns // _SECOND, tz=datetime.UTC)
    return whole.strftime("%Y-%m-%dT%H:%M:%SZ")


def _text(value: str) -> str:
    # What is printable needs no escapes but JSON's, which TOML has too.
    return json.dumps(value, ensure_ascii=False)


def _texts(values: Iterable[str]) -> str:
    return "[" + ", ".join(_text(value) for value in values) + "]"
