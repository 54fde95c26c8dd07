"""A vendor's signature on a module: what is stated, and what is looked at before a key is used."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

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


@dataclass(frozen=True)
class Claim:
    """What the vendor states of a module, beside its bytes."""

    signer: str
    name: str
    version: str
    capabilities: tuple[Capability, ...]


def sign_module(
    data: bytes, claim: Claim, key: SigningKey, now: datetime, *, days: int, root: VendorRoot | None = None
) -> bytes:
    """Return the signed module. With ``root`` what a mixer that trusts it would refuse is refused before.

    Raises:
        InputError: a claim that cannot be made, or that the root does not cover.
        ModuleError: no module, already signed, or it needs what is not claimed.
    """
    if not 1 <= days <= LIMITS.module_signature_max_days:
        raise InputError(f"--days {days} is not within 1 and {LIMITS.module_signature_max_days}")
    if root is not None:
        _check_root(claim, key, now, root)
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
        expires=_ns(now + timedelta(days=days)),
    )


def _check_root(claim: Claim, key: SigningKey, now: datetime, root: VendorRoot) -> None:
    remedy = "have the root file renewed, or sign with the key it is for"
    if root.public != bytes(key.verify_key):
        raise InputError(f"the vendor root of {root.owner!r} is for another key", remedy=remedy)
    if root.revoked:
        raise InputError(f"the key of vendor {root.owner!r} is revoked: {root.reason}", remedy=remedy)
    if not root.not_before <= _ns(now) < root.not_after:
        raise InputError(f"the key of vendor {root.owner!r} is not valid today", remedy=remedy)
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
