"""The two custom sections that carry signatures: where they stand and how their bytes are laid out.

``fluxrig.signature`` is the vendor's, ``fluxrig.cluster.signature`` the cluster's; they are the last sections of a file
and the only ones whose names begin with ``fluxrig.``. Content: ``82 ‖ body ‖ 58 40 ‖ signature``, in one spelling only.
"""

from __future__ import annotations

from dataclasses import dataclass

from stagebox import cbor
from stagebox.envelope import SIGNATURE_BYTES
from stagebox.errors import DecodeError, ModuleError
from stagebox.modules.limits import LIMITS
from stagebox.modules.walker import Section, custom_section

VENDOR_SECTION = "fluxrig.signature"
CLUSTER_SECTION = "fluxrig.cluster.signature"
RESERVED_PREFIX = "fluxrig."

_HEAD = b"\x82"
_TAIL = b"\x58\x40"


@dataclass(frozen=True)
class Placed:
    """The signature sections of a file; what is not there is None."""

    vendor: Section | None
    cluster: Section | None


def place(sections: tuple[Section, ...]) -> Placed:
    """Find the signature sections, which may be absent but not repeated, misplaced or followed.

    Raises:
        ModuleError: they are, or another section has a name of theirs.
    """
    found: dict[str, int] = {}
    for number, section in enumerate(sections):
        name = section.name
        if name is None or not name.startswith(RESERVED_PREFIX):
            continue
        if name not in (VENDOR_SECTION, CLUSTER_SECTION):
            raise ModuleError("reserved_name", f"a section is named {name!r}, which is no signature section")
        if name in found:
            raise ModuleError("duplicate_signature", f"the section {name!r} is there twice")
        found[name] = number
    vendor, cluster = found.get(VENDOR_SECTION), found.get(CLUSTER_SECTION)
    if vendor is None and cluster is not None:
        raise ModuleError("missing_signature", "the module is countersigned, but not signed by a vendor")
    if vendor is not None and cluster is not None and cluster < vendor:
        raise ModuleError("misplaced_signature", "the countersignature stands before the vendor's signature")
    last = vendor if cluster is None else cluster
    if last is not None and last != len(sections) - 1:
        raise ModuleError("trailing_section", "a section follows the signature")
    if vendor is not None and cluster is not None and cluster != vendor + 1:
        raise ModuleError("misplaced_signature", "a section stands between signature and countersignature")
    return Placed(
        None if vendor is None else sections[vendor], None if cluster is None else sections[cluster]
    )


def vendor_section(placed: Placed) -> Section:
    """Return the vendor's section.

    Raises:
        ModuleError: the module is not signed.
    """
    if placed.vendor is None:
        raise ModuleError(
            "missing_signature",
            "the module is not signed by a vendor",
            remedy="have its vendor sign it: stagebox wasm sign",
        )
    return placed.vendor


def split_section(data: bytes, section: Section) -> tuple[bytes, bytes]:
    """Return (body, signature) of a signature section **without verifying it**.

    Raises:
        ModuleError: too large, or its layout is not the one there is.
    """
    what = f"the section {section.name!r}"
    if section.end - section.start > LIMITS.max_signature_section_bytes:
        raise ModuleError("too_large", f"{what} has {section.end - section.start} bytes")
    content = data[section.content : section.end]
    if custom_section(str(section.name), content) != data[section.start : section.end]:
        raise ModuleError("not_canonical", f"{what} has a size or a name length that is longer than needed")
    tail = len(content) - SIGNATURE_BYTES - len(_TAIL)
    if tail <= len(_HEAD) or content[:1] != _HEAD or content[tail : tail + len(_TAIL)] != _TAIL:
        raise _layout_error(content, what)
    return content[len(_HEAD) : tail], content[tail + len(_TAIL) :]


def _layout_error(content: bytes, what: str) -> ModuleError:
    """Say what is wrong with a content that is refused in any case."""
    try:
        value = cbor.decode(
            content, max_bytes=LIMITS.max_signature_section_bytes, max_items=LIMITS.max_signature_items
        )
    except DecodeError as error:
        return ModuleError("malformed", f"{what} is malformed: {error.message}")
    match value:
        case [dict(), bytes(signature)] if len(signature) == SIGNATURE_BYTES:
            return ModuleError("not_canonical", f"{what} is not deterministically encoded")
    return ModuleError("malformed", f"{what} is not a body and a signature of {SIGNATURE_BYTES} bytes")


def make_section(name: str, body: bytes, signature: bytes) -> bytes:
    """Return a signature section, whole."""
    return custom_section(name, b"".join((_HEAD, body, _TAIL, signature)))
