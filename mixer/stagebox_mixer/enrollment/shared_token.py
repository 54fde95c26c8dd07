"""The shared token: one secret with which several named racks may enroll. For fleets that cannot do better yet.

Off unless asked for, and said aloud at every start. It is weaker than a one-time token: whoever holds it can take
the name of any listed rack that is not registered yet. So it never replaces a registered key, never brings a
removed rack back, and works for the listed names only.
"""

from __future__ import annotations

import hmac
import stat
from dataclasses import dataclass
from pathlib import Path

import structlog

from stagebox.errors import ConfigError, InputError
from stagebox.identity import check_name
from stagebox_mixer.enrollment.machine import EnrollmentRefused
from stagebox_mixer.limits import LIMITS
from stagebox_mixer.registry.model import RackEntry, token_hash
from stagebox_mixer.settings import MixerSettings

log = structlog.get_logger()

_ONE_TIME = "make a one-time token on the mixer: stagebox admin token create --rack"


@dataclass(frozen=True)
class SharedToken:
    """The hash of the token and the racks that may use it."""

    digest: str
    racks: frozenset[str]

    def is_it(self, token: str) -> bool:
        """Tell whether ``token`` is the shared one, in constant time."""
        return hmac.compare_digest(self.digest, token_hash(token))

    def check(self, rack: str | None, entry: RackEntry | None, rack_public: bytes) -> str:
        """Return the name ``rack_public`` may enroll as with the shared token.

        Raises:
            EnrollmentRefused: no name, not a listed one, or one that is taken.
        """
        if rack is None:
            raise EnrollmentRefused(
                "shared_token_no_name",
                "with the shared token a rack has to say its name",
                "enroll with --rack <name>",
            )
        if rack not in self.racks:
            raise EnrollmentRefused(
                "shared_token_other_rack",
                f"rack {rack!r} may not enroll with the shared token",
                f"{_ONE_TIME} {rack}",
            )
        if entry is not None and (entry.removed_at or entry.rack_public != rack_public):
            was = "was removed" if entry.removed_at else "is registered with another key"
            raise EnrollmentRefused(
                "shared_token_taken",
                f"rack {rack!r} {was}, and the shared token never replaces an identity",
                f"{_ONE_TIME} {rack}",
            )
        return rack


def load_shared_token(settings: MixerSettings) -> SharedToken | None:
    """Return the shared token if the settings allow one, and warn about it.

    Raises:
        ConfigError: it is allowed but not fully set, or its file is not safe.
    """
    if not settings.allow_shared_token:
        return None
    path = settings.shared_token_file
    if path is None or not settings.shared_token_racks:
        raise ConfigError(
            "allow_shared_token needs shared_token_file and shared_token_racks",
            remedy="name the file and the racks, or turn allow_shared_token off",
        )
    try:
        racks = frozenset(check_name("rack", name) for name in settings.shared_token_racks)
    except InputError as error:
        raise ConfigError(f"shared_token_racks: {error.message}", remedy=error.remedy) from None
    token = _read(path)
    log.warning(
        "shared_token_allowed",
        racks=sorted(racks),
        meaning="whoever holds the token can enroll as any of these racks that is not registered yet",
    )
    return SharedToken(token_hash(token), racks)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            mode = stat.S_IMODE(path.stat().st_mode)
            data = stream.read(LIMITS.shared_token_bytes + 1)
    except OSError as error:
        raise ConfigError(f"cannot read shared_token_file {path}: {error.strerror}") from None
    if mode & 0o077:
        raise ConfigError(
            f"shared_token_file {path} is open to other users (mode {mode:04o})", remedy=f"chmod 600 {path}"
        )
    try:
        token = data.decode("ascii").strip()
    except UnicodeDecodeError:
        token = ""
    if len(data) > LIMITS.shared_token_bytes or len(token) < LIMITS.shared_token_min_chars:
        raise ConfigError(
            f"shared_token_file {path} does not hold one ASCII token of at least "
            f"{LIMITS.shared_token_min_chars} characters",
            remedy=f"for example: (umask 077; openssl rand -base64 30 > {path})",
        )
    return token
