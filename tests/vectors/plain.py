"""The bases of the vectors, written from the RFCs and docs/reference/ without a line of Stagebox.

Deterministic CBOR (RFC 8949 §4.2.1, RFC 8746 tags 72, 77, 85) and certificates (RFC 5280) that come out the same every
time: serial numbers are counted and ECDSA is deterministic (RFC 6979). The keys in here protect nothing.
"""

from __future__ import annotations

import datetime
import struct
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from nacl.signing import SigningKey

CLUSTER = SigningKey(bytes(range(32)))
RACK = SigningKey(bytes(range(32, 64)))
STRANGER = SigningKey(bytes(range(64, 96)))
BOOT = bytes(range(16))
T0 = 1_767_312_000_000_000_000  # 2026-01-02T00:00:00Z in ns
PURPOSES = (
    "passport", "checkpoint", "wal", "seal", "request", "answer", "command", "ack", "trust", "deny_list",
    "succession", "patch",
)  # fmt: skip
DOMAINS = {name: f"stagebox.{name.replace('_', '')}.v1\0".encode() for name in PURPOSES}
Map = dict[str, Any]


class Float32s(tuple[float, ...]):
    """A typed array: tag 85, little-endian binary32."""


class Int16s(tuple[int, ...]):
    """A typed array: tag 77, little-endian two's complement of 16 bits."""


class Int8s(tuple[int, ...]):
    """A typed array: tag 72, two's complement of 8 bits."""


def head(major: int, argument: int) -> bytes:
    """Return the shortest head of an item (RFC 8949 §3)."""
    if argument < 24:
        return bytes([major << 5 | argument])
    for info, size in ((24, 1), (25, 2), (26, 4)):
        if argument < 1 << 8 * size:
            return bytes([major << 5 | info]) + argument.to_bytes(size, "big")
    return bytes([major << 5 | 27]) + argument.to_bytes(8, "big")


def shortest_float(value: float) -> bytes:
    """Return the shortest float that keeps the value (RFC 8949 §4.2.1)."""
    for initial, layout in ((b"\xf9", ">e"), (b"\xfa", ">f")):
        try:
            packed = struct.pack(layout, value)
        except OverflowError:
            continue
        if struct.unpack(layout, packed)[0] == value:
            return initial + packed
    return b"\xfb" + struct.pack(">d", value)


def cbor(value: Any) -> bytes:
    """Return the deterministic encoding."""
    match value:
        case bool():
            return b"\xf5" if value else b"\xf4"
        case None:
            return b"\xf6"
        case int():
            return head(0, value) if value >= 0 else head(1, -1 - value)
        case float():
            return shortest_float(value)
        case bytes():
            return head(2, len(value)) + value
        case str():
            return head(3, len(value.encode())) + value.encode()
        case Float32s():
            return head(6, 85) + cbor(struct.pack(f"<{len(value)}f", *value))
        case Int16s():
            return head(6, 77) + cbor(struct.pack(f"<{len(value)}h", *value))
        case Int8s():
            return head(6, 72) + cbor(struct.pack(f"<{len(value)}b", *value))
        case list():
            return head(4, len(value)) + b"".join(cbor(item) for item in value)
        case dict():
            pairs = sorted((cbor(key), cbor(item)) for key, item in value.items())
            return head(5, len(value)) + b"".join(key + item for key, item in pairs)
    raise TypeError(type(value).__name__)


def envelope(domain: str, payload: bytes, key: SigningKey) -> bytes:
    """Return the signed envelope."""
    return cbor({"Payload": payload, "Signature": key.sign(DOMAINS[domain] + payload).signature})


def flipped(data: bytes, position: int) -> bytes:
    """Return ``data`` with the lowest bit of one byte inverted."""
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


def without(fields: Map, name: str) -> Map:
    """Return ``fields`` less one."""
    return {key: value for key, value in fields.items() if key != name}


class Ca:
    """A P-256 root and the rack certificates it issues. ``number`` makes its key."""

    def __init__(self, number: int) -> None:
        self._key = ec.derive_private_key(number, ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"vector root {number}")])
        self._serial = number
        self.der = self._sign(self._name, self._key.public_key(), 3650, ca=True)

    def rack(self, uri: str, public: bytes) -> bytes:
        """Return the DER of a certificate for the raw key ``public``, valid 2026-01-01 to 2026-01-31."""
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, uri.rpartition("/")[2])])
        return self._sign(name, ed25519.Ed25519PublicKey.from_public_bytes(public), 30, uri=uri)

    def _sign(self, subject: x509.Name, public: Any, days: int, *, ca: bool = False, uri: str = "") -> bytes:
        start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
        self._serial += 1
        usage = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
             "encipher_only", "decipher_only"), False)  # fmt: skip
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = (
            x509.CertificateBuilder(self._name, subject, public, self._serial)
            .not_valid_before(start)
            .not_valid_after(start + datetime.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca, None), critical=True)
            .add_extension(
                x509.KeyUsage(digital_signature=not ca, key_cert_sign=ca, crl_sign=ca, **usage), critical=True
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(issuer, critical=False)
        )
        if uri:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False
            ).add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256(), ecdsa_deterministic=True)
        return certificate.public_bytes(Encoding.DER)
