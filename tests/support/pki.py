"""X.509 for tests, free to be wrong: any names, usage and lifetime, made without the packages under test."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NOW = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
DAY = datetime.timedelta(days=1)
CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
PublicKey = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey


def uri(text: str) -> x509.GeneralName:
    """Return a URI for a subject alternative name."""
    return x509.UniformResourceIdentifier(text)


@dataclass(frozen=True)
class Files:
    """A certificate chain and its key as PEM files."""

    certificate: Path
    key: Path


class Ca:
    """A P-256 authority, self-signed or under ``parent``."""

    def __init__(self, name: str = "test root", parent: Ca | None = None, *, days: int = 365) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = (parent or self)._sign(
            self.name, self.key.public_key(), NOW - DAY, NOW + days * DAY, ca=True
        )
        self.pem = self.certificate.public_bytes(Encoding.PEM)

    def issue(
        self,
        key: PublicKey,
        names: Sequence[x509.GeneralName] = (),
        *,
        usage: x509.ObjectIdentifier = CLIENT,
        not_before: datetime.datetime = NOW - DAY,
        not_after: datetime.datetime = NOW + DAY,
    ) -> x509.Certificate:
        """Return a leaf for ``key``."""
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "leaf")])
        return self._sign(subject, key, not_before, not_after, names=names, usage=usage)

    def _sign(
        self,
        subject: x509.Name,
        key: PublicKey,
        not_before: datetime.datetime,
        not_after: datetime.datetime,
        *,
        ca: bool = False,
        names: Sequence[x509.GeneralName] = (),
        usage: x509.ObjectIdentifier | None = None,
    ) -> x509.Certificate:
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        builder = (
            x509.CertificateBuilder(self.name, subject, key, x509.random_serial_number())
            .not_valid_before(not_before)
            .not_valid_after(not_after)
            .add_extension(x509.BasicConstraints(ca, None), critical=True)
            .add_extension(key_usage(ca), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(authority, critical=False)
        )
        if usage is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self.key, hashes.SHA256())


def write_files(
    directory: Path,
    name: str,
    chain: Sequence[x509.Certificate],
    key: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey,
) -> Files:
    """Write a chain, leaf first, and its key (mode 0600)."""
    files = Files(directory / f"{name}.pem", directory / f"{name}.key")
    files.certificate.write_bytes(b"".join(item.public_bytes(Encoding.PEM) for item in chain))
    files.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    files.key.chmod(0o600)
    return files


def key_usage(ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )
