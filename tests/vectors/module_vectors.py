"""The vectors of signed modules, made from docs/reference/module-signature.md and the Wasm specification alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

from blake3 import blake3
from nacl.signing import SigningKey

from vectors.plain import CLUSTER, STRANGER, T0, Map, cbor, flipped, head, without

VENDOR = SigningKey(bytes(range(96, 128)))
DOMAINS = {name: f"stagebox.module.{name}.v1\0".encode() for name in ("vendor", "cluster")}
SECTIONS = {"vendor": "fluxrig.signature", "cluster": "fluxrig.cluster.signature"}
DAY = 86_400 * 10**9
I32, F32 = b"\x7f", b"\x7d"


def leb(value: int, size: int = 1) -> bytes:
    """Return LEB128 in at least ``size`` bytes."""
    groups: list[int] = []
    while value or len(groups) < size:
        groups.append(value & 0x7F)
        value >>= 7
    return bytes(group | 0x80 for group in groups[:-1]) + bytes(groups[-1:])


def section(number: int, content: bytes) -> bytes:
    """Return a section."""
    return bytes([number]) + leb(len(content)) + content


def custom(name: str, content: bytes) -> bytes:
    """Return a custom section."""
    return section(0, leb(len(name.encode())) + name.encode() + content)


def listed(*items: bytes) -> bytes:
    """Return a vector of the Wasm specification."""
    return leb(len(items)) + b"".join(items)


def key_id(public: bytes) -> bytes:
    """Return how a statement names a key."""
    return hashlib.sha256(b"stagebox.module.keyid.v1\0" + public).digest()[:16]


def parameters() -> list[Map]:
    """Return the parameters of the module."""
    gain = {"Name": "gain", "ID": 0, "Min": 0.0, "Max": 4.0, "Default": 1.0, "Unit": ""}
    return [gain, {"Name": "hold", "ID": 1, "Min": 0.1, "Max": 10.0, "Default": 0.5, "Unit": "s"}]


def module(rest: int = 0) -> bytes:
    """Return a module of ABI v1 that returns what it is given, in place; ``rest`` makes another of the same size."""
    types = [(I32 * 3, I32), (b"", I32), (I32, I32), (I32 + F32, I32)]
    names = [
        ("memory", 2, 0),
        ("init", 0, 0),
        ("in_ptr", 0, 1),
        ("out_ptr", 0, 1),
        ("process", 0, 2),
        ("param", 0, 3),
    ]
    bodies = [b"\x41\x00", b"\x41\x80\x08", b"\x20\x00", b"\x41" + bytes([rest])]
    return b"\0asm\1\0\0\0" + b"".join(
        (
            section(1, listed(*(b"\x60" + leb(len(a)) + a + leb(len(r)) + r for a, r in types))),
            section(3, listed(b"\0", b"\1", b"\2", b"\3")),
            section(5, listed(b"\1\2\2")),
            section(7, listed(*(leb(len(n)) + n.encode() + bytes([kind, at]) for n, kind, at in names))),
            section(10, listed(*(leb(len(body) + 2) + b"\0" + body + b"\x0b" for body in bodies))),
            custom("stagebox.params", cbor(parameters())),
        )
    )


def vendor_fields(prefix: bytes, key: SigningKey = VENDOR) -> Map:
    """Return what a vendor says of ``prefix``."""
    return {
        "Version": 1,
        "Algorithm": "Ed25519",
        "KeyID": key_id(bytes(key.verify_key)),
        "Covered": len(prefix),
        "SHA256": hashlib.sha256(prefix).digest(),
        "BLAKE3": blake3(prefix).digest(),
        "Signer": "Tone Works, release desk",
        "Name": "through",
        "ModuleVersion": "1.0.0-rc.1",
        "ABI": 1,
        "Capabilities": ["audio", "log"],
        "Issued": T0 - DAY,
        "Expires": T0 + 365 * DAY,
    }


def cluster_fields(prefix: bytes, key: SigningKey = CLUSTER) -> Map:
    """Return what a cluster says of ``prefix``, which a vendor has signed."""
    return {
        **vendor_fields(prefix, key),
        "Signer": "flux-prod",
        "Issued": T0,
        "Expires": T0 + 90 * DAY,
        "ClusterID": "flux-prod",
        "Granted": ["audio"],
        "Limits": {
            "FuelPerBlock": 10_000_000,
            "MemoryBytes": 1 << 20,
            "TableElements": 256,
            "EpochMs": 1_000,
            "RecordsPerSecond": 20,
            "RecordBytes": 8_192,
        },
        "Serial": 7,
    }


def signature(kind: str, body: bytes, key: SigningKey) -> bytes:
    """Return the signature of a body for one purpose."""
    return bytes(key.sign(DOMAINS[kind] + body).signature)


def content(body: bytes, signed: bytes) -> bytes:
    """Return the content of a signature section."""
    return b"\x82" + body + b"\x58\x40" + signed


class End:
    """One end: makes what it accepts, and what it refuses with one thing wrong and signed all the same."""

    def __init__(
        self, kind: str, prefix: bytes, fields: Callable[[bytes, SigningKey], Map], key: SigningKey
    ) -> None:
        self.kind, self.prefix, self.key = kind, prefix, key
        self._make = fields
        self.fields = fields(prefix, key)
        self.body = cbor(self.fields)
        self.name = SECTIONS[kind]

    def with_body(self, body: bytes, key: SigningKey | None = None, kind: str | None = None) -> bytes:
        """Return the file with any body, signed."""
        signed = signature(kind or self.kind, body, key or self.key)
        return self.prefix + custom(self.name, content(body, signed))

    def but(self, **changes: object) -> bytes:
        """Return the file with some fields changed."""
        return self.with_body(cbor({**self.fields, **changes}))

    def of(self, prefix: bytes) -> bytes:
        """Return another file, rightly signed."""
        body = cbor(self._make(prefix, self.key))
        return prefix + custom(self.name, content(body, signature(self.kind, body, self.key)))

    def valid(self, name: str, **changes: object) -> Map:
        """Return a vector of a file that is accepted."""
        fields = {**self.fields, **changes}
        body = cbor(fields)
        signed = signature(self.kind, body, self.key)
        whole = self.with_body(body)
        return {
            "name": name,
            "fields": fields,
            "body": body,
            "signature": signed,
            "section": whole[len(self.prefix) :],
            "module": whole,
            "sha256": hashlib.sha256(whole).digest(),
        }

    def refused(self) -> Iterable[tuple[str, str, bytes]]:
        """Yield (code, reason, file) of what both ends refuse alike."""
        yield from self.layouts()
        yield from self.spellings()
        yield from self.statements()
        yield from self.proofs()
        for name in self.fields:
            yield "malformed", f"no {name}", self.with_body(cbor(without(self.fields, name)))

    def layouts(self) -> Iterable[tuple[str, str, bytes]]:
        """Yield files whose sections are not as they have to be."""
        good, note = self.with_body(self.body), custom("note", b"x")
        payload = leb(len(self.name)) + self.name.encode() + content(self.body, good[-64:])
        padded = self.prefix + b"\0" + leb(len(payload), 5) + payload
        yield "trailing_section", "a section follows the signature", good + note
        yield "overrun", "one byte follows the signature", good + b"\0"
        yield "overrun", "the last byte is missing", good[:-1]
        yield "bad_preamble", "version 2 of the binary format", good[:4] + b"\2" + good[5:]
        yield "duplicate_signature", "the signature is there twice", good + good[len(self.prefix) :]
        yield "not_canonical", "the section's size is padded", padded

    def spellings(self) -> Iterable[tuple[str, str, bytes]]:
        """Yield files whose signature section is not the deterministic encoding of a pair."""
        signed = signature(self.kind, self.body, self.key)
        pair = content(self.body, signed)
        unsorted = b"".join(cbor(key) + cbor(value) for key, value in self.fields.items())
        contents = {
            ("malformed", "64 bare bytes"): signed,
            ("malformed", "a byte behind the pair"): pair + b"\0",
            ("malformed", "the pair in a map"): b"\xa1" + pair[1:],
            ("not_canonical", "the signature's head is longer than needed"): pair[:-66]
            + b"\x59\0\x40"
            + signed,
        }
        for (code, reason), data in contents.items():
            yield code, reason, self.prefix + custom(self.name, data)
        bodies = {
            ("not_canonical", "keys not in deterministic order"): head(5, len(self.fields)) + unsorted,
            ("not_canonical", "a number longer than needed"): self.body.replace(
                cbor("Version") + b"\x01", cbor("Version") + b"\x18\x01"
            ),
            ("malformed", "a tag no format uses"): self.body.replace(
                cbor("Issued"), cbor("Issued") + b"\xc1"
            ),
        }
        for (code, reason), data in bodies.items():
            yield code, reason, self.with_body(data)

    def statements(self) -> Iterable[tuple[str, str, bytes]]:
        """Yield files whose statement is none, or is not good now."""
        yield "bad_version", "version 2", self.but(Version=2)
        yield "malformed", "version is a boolean", self.but(Version=True)
        yield "bad_algorithm", "algorithm none", self.but(Algorithm="none")
        yield "unknown_abi", "ABI 2", self.but(ABI=2)
        yield "malformed", "name is no legal name", self.but(Name="../through")
        yield "malformed", "version is not semantic", self.but(ModuleVersion="1.0")
        yield "malformed", "the signer has a line break", self.but(Signer="Tone\nWorks")
        yield "not_canonical", "capabilities not sorted", self.but(Capabilities=["log", "audio"])
        yield "unknown_capability", "a capability that is not known", self.but(Capabilities=["audio", "wasi"])
        yield "malformed", "expires when it is issued", self.but(Issued=T0, Expires=T0)
        yield "not_yet_valid", "issued 301 s from now", self.but(Issued=T0 + 301 * 10**9)
        yield "expired", "expires now", self.but(Issued=T0 - DAY, Expires=T0)

    def proofs(self) -> Iterable[tuple[str, str, bytes]]:
        """Yield files that were changed, or signed by or for something else."""
        good = self.with_body(self.body)
        at = good.index(b"through", len(self.prefix))
        strange = cbor({**self.fields, "KeyID": key_id(bytes(STRANGER.verify_key))})
        other = "cluster" if self.kind == "vendor" else "vendor"
        yield "wrong_offset", "covers one byte less", self.but(Covered=len(self.prefix) - 1)
        yield "wrong_digest", "another SHA-256", self.but(SHA256=bytes(32))
        yield "wrong_digest", "another BLAKE3", self.but(BLAKE3=bytes(32))
        yield "wrong_digest", "one bit of the module flipped", flipped(good, 12)
        yield "bad_signature", "one bit of the body flipped", flipped(good, at)
        yield "bad_signature", "one bit of the signature flipped", flipped(good, len(good) - 1)
        yield "bad_signature", "signed by another key", self.with_body(self.body, STRANGER)
        yield "unknown_key", "signed by a key that is not known", self.with_body(strange, STRANGER)
        yield "wrong_purpose_key", "signed for the other purpose", self.with_body(self.body, kind=other)


def at_import(vendor: End, signed: bytes) -> Iterable[tuple[str, str, bytes]]:
    """Yield what the mixer alone refuses."""
    countersigned = End("cluster", signed, cluster_fields, CLUSTER)
    yield "missing_signature", "not signed", vendor.prefix
    yield "already_countersigned", "countersigned already", countersigned.with_body(countersigned.body)
    yield "wrong_digest", "the signature of another module", module(1) + signed[len(vendor.prefix) :]
    yield "name_not_allowed", "a name that the root does not allow", vendor.but(Name="limiter")
    yield (
        "capability_not_allowed",
        "a capability that the root does not allow",
        vendor.but(Capabilities=["audio", "clock"]),
    )
    yield (
        "wrong_purpose_key",
        "signed by the cluster authority",
        vendor.with_body(cbor(vendor_fields(vendor.prefix, CLUSTER)), CLUSTER),
    )


def at_rack(cluster: End, vendor: End, signed: bytes) -> Iterable[tuple[str, str, bytes]]:
    """Yield what a rack alone refuses."""
    section_bytes = cluster.with_body(cluster.body)[len(signed) :]
    yield "missing_signature", "not signed", vendor.prefix
    yield "missing_countersignature", "not countersigned", signed
    yield (
        "missing_signature",
        "countersigned, not signed",
        End("cluster", vendor.prefix, cluster_fields, CLUSTER).of(vendor.prefix),
    )
    yield (
        "misplaced_signature",
        "the countersignature comes first",
        (vendor.prefix + section_bytes + signed[len(vendor.prefix) :]),
    )
    yield (
        "misplaced_signature",
        "a section between the signatures",
        signed + custom("note", b"x") + section_bytes,
    )
    yield "wrong_cluster", "of another cluster", cluster.but(ClusterID="flux-test")
    yield "wrong_name", "another name than the vendor's", cluster.but(Name="limiter")
    yield "wrong_module_version", "another version than the vendor's", cluster.but(ModuleVersion="1.0.0")
    yield "wrong_capabilities", "another request than the vendor's", cluster.but(Capabilities=["audio"])
    yield "capability_not_allowed", "a grant that was not asked for", cluster.but(Granted=["audio", "clock"])
    yield "not_canonical", "grants not sorted", cluster.but(Granted=["log", "audio"])
    yield "expiry_too_late", "outlives the vendor's signature", cluster.but(Expires=T0 + 365 * DAY + 1)
    limits = cluster.fields["Limits"]
    yield "limit_not_allowed", "no fuel", cluster.but(Limits={**limits, "FuelPerBlock": 0})
    yield (
        "limit_not_allowed",
        "more memory than there may be",
        cluster.but(Limits={**limits, "MemoryBytes": (64 << 20) + 1}),
    )
    yield "malformed", "a limit that is not known", cluster.but(Limits={**limits, "Files": 1})
    yield (
        "wrong_digest",
        "a vendor's signature of another module",
        cluster.of(module(1) + signed[len(vendor.prefix) :]),
    )
    yield (
        "wrong_purpose_key",
        "the cluster authority as the vendor",
        cluster.of(End("vendor", vendor.prefix, vendor_fields, CLUSTER).of(vendor.prefix)),
    )


def root_text() -> str:
    """Return the vendor root, as a file."""
    public = bytes(VENDOR.verify_key)
    return (
        "version = 1\n"
        'owner = "tone-works"\n'
        f'public = "{public.hex()}"\n'
        f'key_id = "{key_id(public).hex()}"\n'
        "not_before = 2026-01-01T00:00:00Z\n"
        "not_after = 2028-01-01T00:00:00Z\n"
        'capabilities = ["audio", "log"]\n'
        'modules = ["eq-*", "through"]\n'
        "revoked = false\n"
        'reason = ""\n'
    )


def section_table(data: bytes) -> list[Map]:
    """Return the sections of a module, whose numbers here have one byte or two."""
    found, at = [], 8
    while at < len(data):
        wide = data[at + 1] > 0x7F
        size = data[at + 1] & 0x7F | (data[at + 2] << 7 if wide else 0)
        payload = at + (3 if wide else 2)
        entry: Map = {"id": data[at], "start": at, "payload": payload, "end": payload + size}
        if data[at] == 0:
            entry["name"] = data[payload + 1 : payload + 1 + data[payload]].decode()
        found.append(entry)
        at = payload + size
    return found


def module_vectors() -> Map:
    """Signed modules that verify, and signed modules that must not."""
    prefix = module()
    vendor = End("vendor", prefix, vendor_fields, VENDOR)
    signed = vendor.with_body(vendor.body)
    cluster = End("cluster", signed, cluster_fields, CLUSTER)
    note = {"X-Ticket": 7}
    return {
        "now": T0,
        "cluster_id": "flux-prod",
        "keys": {
            name: {
                "seed": bytes(key),
                "public": bytes(key.verify_key),
                "key_id": key_id(bytes(key.verify_key)),
            }
            for name, key in (("vendor", VENDOR), ("cluster", CLUSTER), ("stranger", STRANGER))
        },
        "domains": DOMAINS,
        "root": root_text(),
        "unsigned": prefix,
        "params": parameters(),
        "sections": section_table(cluster.with_body(cluster.body)),
        "vendor": [vendor.valid("signed"), vendor.valid("signed with a field of a later release", **note)],
        "cluster": [
            cluster.valid("countersigned"),
            cluster.valid("countersigned with a field of a later release", **note),
            cluster.valid("countersigned to the vendor's last day", Expires=T0 + 365 * DAY),
        ],
        "refused_at_import": [
            {"code": code, "reason": reason, "module": data}
            for code, reason, data in (*vendor.refused(), *at_import(vendor, signed))
        ],
        "refused_at_rack": [
            {"code": code, "reason": reason, "module": data}
            for code, reason, data in (*cluster.refused(), *at_rack(cluster, vendor, signed))
        ],
    }
