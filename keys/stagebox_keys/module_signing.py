"""A vendor's signature on a module: what is stated, and what is looked at before a key is used."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from nacl.signing import SigningKey

from stagebox.errors import InputError
from stagebox.modules.capabilities import Capability
from stagebox.modules.interface import check_interface, read_interface
from stagebox.modules.limits import LIMITS as FORMAT
from stagebox.modules.params import read_params
from stagebox.modules.signing import sign
from stagebox.modules.statement import ModuleLimits, in_order
from stagebox.modules.vendor_root import VendorRoot
from stagebox.modules.walker import walk
from stagebox_keys.limits import LIMITS

_DAY_NS = 86_400 * 10**9
_RENEWED = "have the root file renewed, or sign with the key it is for"


@dataclass(frozen=True)
class Claim:
    """What the vendor states of a module, beside its bytes."""

    signer: str
    name: str
    version: str
    capabilities: tuple[Capability, ...]


def signature_end(now: datetime, days: int | None, root: VendorRoot | None) -> int:
    """Return when a signature made ``now`` ends, in ns since the Unix epoch: never after the key of ``root`` does.

    Without ``days`` that is after the usual ones, or with the key if it ends before.

    Raises:
        InputError: ``days`` are out of bounds, or more than the key has left, or it is not valid now.
    """
    most = LIMITS.module_signature_max_days
    if days is not None and not 1 <= days <= most:
        raise InputError(f"--days {days} is not within 1 and {most}")
    wanted = _ns(now + timedelta(days=LIMITS.module_signature_days if days is None else days))
    if root is None:
        return wanted
    if not root.not_before <= _ns(now) < root.not_after:
        raise InputError(
            f"the key of vendor {root.owner!r} is not valid today: it is from {_utc(root.not_before)} "
            f"until {_utc(root.not_after)}",
            remedy=_RENEWED,
        )
    if wanted <= root.not_after:
        return wanted
    if days is None:
        return root.not_after
    left = (root.not_after - _ns(now)) // _DAY_NS
    raise InputError(
        f"with --days {days} the signature would end {_utc(wanted)}, after the key of vendor {root.owner!r}, "
        f"which ends {_utc(root.not_after)}",
        remedy="leave --days away: then it ends with the key at the latest"
        + (f"; or give at most --days {left}" if left >= 1 else ""),
    )


def sign_module(
    data: bytes,
    claim: Claim,
    key: SigningKey,
    now: datetime,
    *,
    days: int | None = None,
    root: VendorRoot | None = None,
) -> bytes:
    """Return the signed module. With ``root`` what a mixer that trusts it would refuse is refused before.

    It ends as :func:`signature_end` says.

    Raises:
        InputError: a claim that cannot be made, or that the root does not cover.
        ModuleError: no module, already signed, or it needs what is not claimed.
    """
    if root is not None:
        _check_root(claim, key, root)
    expires = signature_end(now, days, root)
    sections = walk(data)
    most = ModuleLimits(memory_bytes=FORMAT.memory_bytes, table_elements=FORMAT.table_elements)
    check_interface(read_interface(data, sections), claim.capabilities, most, read_params(data, sections))
    return sign(
        data,
        key=key,
        signer=claim.signer,
        name=claim.name,
        version=claim.version,
        capabilities=in_order(claim.capabilities),
        issued=_ns(now),
        expires=expires,
    )


def _check_root(claim: Claim, key: SigningKey, root: VendorRoot) -> None:
    if root.public != bytes(key.verify_key):
        raise InputError(f"the vendor root of {root.owner!r} is for another key", remedy=_RENEWED)
    if root.revoked:
        raise InputError(f"the key of vendor {root.owner!r} is revoked: {root.reason}", remedy=_RENEWED)
    if not root.allows_name(claim.name):
        raise InputError(
            f"vendor {root.owner!r} may not sign a module {claim.name!r}",
            remedy=f"its names: {', '.join(root.modules)}",
        )
    beyond: Collection[Capability] = sorted(set(claim.capabilities) - set(root.capabilities))
    for capability in beyond:
        raise InputError(
            f"vendor {root.owner!r} may not ask for {capability.value!r}",
            remedy=f"it may ask for {', '.join(item.value for item in root.capabilities)}",
        )


def _ns(time: datetime) -> int:
    return int(time.timestamp() * 1_000_000) * 1_000


def _utc(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns // 10**9, UTC).isoformat()
