"""X.509 as Stagebox uses it: CSRs, chain verification down to a SPIFFE identity, fingerprints and pins.

Chains are verified by ``cryptography.x509.verification`` (path building, validity, constraints, client EKU);
on top of that exactly one SPIFFE URI must stand in the SAN. Verification raises.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from cryptography.x509.verification import PolicyBuilder, Store
from cryptography.x509.verification import VerificationError as ChainError

from stagebox.errors import DecodeError, KeyFileError, VerificationError
from stagebox.identity import SpiffeId, parse_spiffe
from stagebox.keyfiles import PrivateKey
from stagebox.limits import LIMITS


def build_csr(key: PrivateKey, common_name: str) -> bytes:
    """Return a PEM CSR signed by ``key``, which proves its possession.

    It names no identity: what is certified is decided by the mixer, from the token or the registry.
    """
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    )
    return builder.sign(key, signature_hash(key)).public_bytes(Encoding.PEM)


def signature_hash(key: PrivateKey) -> hashes.SHA256 | None:
    """Return the hash X.509 signatures by ``key`` use (none for Ed25519)."""
    return None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()


def spiffe_identity(certificate: x509.Certificate) -> SpiffeId:
    """Return the one SPIFFE identity in the certificate's SAN.

    Raises:
        VerificationError: there is none, more than one, or it is malformed.
    """
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, ValueError):
        raise VerificationError("the certificate has no subject alternative name") from None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise VerificationError(f"the certificate names {len(uris)} URIs, exactly one identity is expected")
    return parse_spiffe(uris[0])


def verify_chain(
    leaf: x509.Certificate,
    intermediates: Sequence[x509.Certificate],
    roots: Sequence[x509.Certificate],
    now: datetime.datetime,
) -> SpiffeId:
    """Verify a client chain at the time ``now`` (aware UTC) and return whose it is.

    Raises:
        VerificationError: no path to ``roots``, expired or not yet valid, wrong usage, or no identity.
    """
    try:
        verifier = PolicyBuilder().store(Store(list(roots))).time(now).build_client_verifier()
        verifier.verify(leaf, list(intermediates))
    except (ChainError, ValueError) as error:
        raise VerificationError(f"the certificate chain does not verify: {error}") from None
    return spiffe_identity(leaf)


def public_ed25519(certificate: x509.Certificate) -> bytes:
    """Return the raw 32-byte Ed25519 public key of a rack's certificate.

    Raises:
        VerificationError: the certificate carries another kind of key.
    """
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise VerificationError("the certificate carries a key that cannot be read") from None
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise VerificationError("the certificate does not carry an Ed25519 key")
    return key.public_bytes_raw()


def fingerprint(certificate: x509.Certificate) -> str:
    """Return ``sha256:<hex>`` of the certificate's DER."""
    return "sha256:" + hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


root_pin = fingerprint
"""The CA pin that ``admin token create`` prints and ``admin enroll`` demands."""


def parse_pem(data: bytes, what: str) -> list[x509.Certificate]:
    """Parse a PEM bundle.

    Raises:
        DecodeError: not PEM certificates, or none at all.
    """
    try:
        return x509.load_pem_x509_certificates(data)
    except (ValueError, x509.InvalidVersion):
        raise DecodeError(f"{what} holds no readable PEM certificate") from None


def parse_der_chain(chain: Sequence[bytes], what: str) -> list[x509.Certificate]:
    """Parse a list of DER certificates, leaf first.

    Raises:
        DecodeError: empty, too long, too large or not certificates.
    """
    if not 1 <= len(chain) <= LIMITS.max_chain_certificates:
        raise DecodeError(f"{what} holds {len(chain)} certificates")
    if any(len(der) > LIMITS.max_certificate_bytes for der in chain):
        raise DecodeError(f"{what} holds a certificate over {LIMITS.max_certificate_bytes} bytes")
    try:
        return [x509.load_der_x509_certificate(der) for der in chain]
    except (ValueError, x509.InvalidVersion):
        raise DecodeError(f"{what} holds something that is not a certificate") from None


def load_certificates(path: Path) -> list[x509.Certificate]:
    """Read a PEM bundle from a file.

    Raises:
        KeyFileError: missing, unreadable or damaged.
    """
    try:
        return parse_pem(path.read_bytes(), str(path))
    except OSError as error:
        raise KeyFileError(f"cannot read the certificate {path}: {error.strerror}") from None
    except DecodeError as error:
        raise KeyFileError(error.message, remedy="restore the file, or issue the certificate again") from None


def to_pem(certificates: Sequence[x509.Certificate]) -> bytes:
    """Return the concatenated PEM of ``certificates``."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def to_der(certificates: Sequence[x509.Certificate]) -> list[bytes]:
    """Return the DER of each of ``certificates``."""
    return [certificate.public_bytes(Encoding.DER) for certificate in certificates]


def is_p256(certificate: x509.Certificate) -> bool:
    """Tell whether the certificate carries a P-256 key."""
    key = certificate.public_key()
    return isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)
