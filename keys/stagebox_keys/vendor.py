"""``keys gen-vendor``: the key that signs a vendor's Wasm modules, and the root file a mixer trusts it by.

The vendor keeps ``vendor.key``; the operator of a mixer gets ``vendor.toml`` and narrows it before putting it in
``data/wasm/keys``.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stagebox.errors import InputError
from stagebox.files import fsync_dir, make_private_dir, write_new
from stagebox.keyfiles import save_private_key
from stagebox.modules.capabilities import Capability
from stagebox.modules.statement import in_order
from stagebox.modules.vendor_root import VendorRoot, parse
from stagebox_keys import layout
from stagebox_keys.cluster import move_into_place, refuse_existing
from stagebox_keys.limits import LIMITS

_PUBLIC_MODE = 0o644

USUAL_CAPABILITIES = (Capability.AUDIO, Capability.TELEMETRY, Capability.EMIT, Capability.LOG)
"""What a vendor asks for who says nothing: everything but the wall clock."""
ANY_MODULE = ("*",)


@dataclass(frozen=True)
class NewVendor:
    """What ``generate_vendor`` made."""

    directory: Path
    root: VendorRoot
    encrypted: bool
    files: tuple[str, ...]


def generate_vendor(
    directory: Path,
    owner: str,
    passphrase: bytes | None,
    now: datetime,
    *,
    days: int = LIMITS.vendor_days,
    capabilities: Collection[Capability] = USUAL_CAPABILITIES,
    modules: Collection[str] = ANY_MODULE,
) -> NewVendor:
    """Make a vendor's key and root file in ``directory``, which must not exist or be empty.

    ``modules`` are patterns of the module names the key signs, in the manner of the shell.

    Raises:
        InputError: illegal owner, number of days, capability or pattern.
        KeyFileError: ``directory`` already holds something.
        StorageError: it cannot be written.
    """
    if not 1 <= days <= LIMITS.vendor_max_days:
        raise InputError(f"--days {days} is not within 1 and {LIMITS.vendor_max_days}")
    refuse_existing(directory)
    key = Ed25519PrivateKey.generate()
    start = now - timedelta(seconds=LIMITS.backdate_s)
    root = VendorRoot(
        owner=owner,
        public=key.public_key().public_bytes_raw(),
        not_before=_ns(start),
        not_after=_ns(now + timedelta(days=days)),
        capabilities=in_order(capabilities),
        modules=tuple(dict.fromkeys(modules)),
    )
    text = root.render()
    parse(text, "the vendor")
    staging = directory.absolute().with_name(f".{directory.name}.new-{secrets.token_hex(4)}")
    try:
        make_private_dir(directory.absolute().parent)
        make_private_dir(staging)
        save_private_key(staging / layout.VENDOR_KEY, key, passphrase)
        write_new(staging / layout.VENDOR_TOML, text.encode("utf-8"), mode=_PUBLIC_MODE)
        fsync_dir(staging)
        move_into_place(staging, directory)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return NewVendor(directory, root, passphrase is not None, (layout.VENDOR_KEY, layout.VENDOR_TOML))


def _ns(time: datetime) -> int:
    """Whole seconds, as the text form has them."""
    return int(time.timestamp()) * 1_000_000_000
