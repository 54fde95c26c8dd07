"""The certificate authorities: an offline root and the issuing CA that signs racks, servers and clients.

Rules (RFC 5280):
- Every certificate has SKI, AKI, basic constraints and key usage; every leaf has extended key usage and SAN.
- Validity starts five minutes early for clocks that run behind (less for lives under an hour, so that a renewal
  at two thirds of life stays in the future), and never outlives the issuer.
- What is certified comes from the caller; a CSR only proves possession of its key and may not ask otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from stagebox.certificates import load_certificates, to_pem
from stagebox.errors import InputError, KeyFileError, VerificationError
from stagebox.identity import ClientId, MixerId, RackId, SpiffeId
from stagebox.keyfiles import load_private_key
from stagebox_keys import layout
from stagebox_keys.limits import LIMITS

PublicKey = Ed25519PublicKey | EllipticCurvePublicKey


@dataclass(frozen=True)
class _Request:
    """Everything that goes into one certificate besides the issuer."""

    public_key: PublicKey
    subject: x509.Name
    days: float
    names: tuple[x509.GeneralName, ...] = ()
    usages: tuple[x509.ObjectIdentifier, ...] = ()
    ca_path_length: int | None = None


def make_root(cluster: str, key: EllipticCurvePrivateKey, now: datetime) -> x509.Certificate:
    """Return the self-signed root CA certificate: P-256, path length 1."""
    subject = _name(f"{cluster} root CA", cluster)
    request = _Request(key.public_key(), subject, LIMITS.root_ca_days, ca_path_length=1)
    return _sign(request, key, None, now)


def make_issuing(
    cluster: str,
    public_key: EllipticCurvePublicKey,
    root: x509.Certificate,
    root_key: EllipticCurvePrivateKey,
    now: datetime,
) -> x509.Certificate:
    """Return the issuing CA certificate signed by the root: P-256, path length 0."""
    subject = _name(f"{cluster} issuing CA", cluster)
    request = _Request(public_key, subject, LIMITS.issuing_ca_days, ca_path_length=0)
    return _sign(request, root_key, root, now)


def parse_csr(data: bytes) -> x509.CertificateSigningRequest:
    """Parse a PEM or DER certificate signing request.

    Raises:
        InputError: it is too large or not a CSR.
    """
    if len(data) > LIMITS.csr_bytes:
        raise InputError(f"the CSR has {len(data)} bytes, over the limit of {LIMITS.csr_bytes}")
    try:
        if data.lstrip().startswith(b"-----BEGIN"):
            return x509.load_pem_x509_csr(data)
        return x509.load_der_x509_csr(data)
    except (ValueError, x509.InvalidVersion) as error:
        raise InputError("the CSR is not a PKCS#10 certificate signing request") from error


def csr_key(csr: x509.CertificateSigningRequest) -> Ed25519PublicKey:
    """Return the identity key that ``csr`` proves possession of.

    Raises:
        InputError: the key is not Ed25519, or cannot be read.
        VerificationError: the CSR is not signed by its own key.
    """
    try:
        key = csr.public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise InputError("the CSR carries a key that cannot be read") from None
    if not isinstance(key, Ed25519PublicKey):
        raise InputError(
            f"the CSR's key is {type(key).__name__}, and a rack's identity is an Ed25519 key",
            remedy="enroll with `stagebox admin enroll`, which makes one",
        )
    try:
        key.verify(csr.signature, csr.tbs_certrequest_bytes)
    except InvalidSignature as error:
        raise VerificationError("the CSR is not signed by the key it asks a certificate for") from error
    return key


class IssuingAuthority:
    """The issuing CA of one cluster, held by the mixer."""

    def __init__(
        self, key: EllipticCurvePrivateKey, certificate: x509.Certificate, root: x509.Certificate
    ) -> None:
        self._key = key
        self.certificate = certificate
        self.root = root

    @classmethod
    def load(cls, mixer_dir: Path, passphrase: bytes | None) -> IssuingAuthority:
        """Read the issuing CA of a mixer directory; key, certificate and root must belong together.

        Raises:
            KeyFileError: a file cannot be used, or they do not match.
        """
        root = load_certificates(mixer_dir / layout.CA_PEM)[0]
        certificate = load_certificates(mixer_dir / layout.ISSUING_CERT)[0]
        key = load_private_key(mixer_dir / layout.ISSUING_KEY, passphrase)
        if not isinstance(key, EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise KeyFileError(
                f"{mixer_dir / layout.ISSUING_KEY} is not the key of {mixer_dir / layout.ISSUING_CERT}",
                remedy="restore both from the same backup",
            )
        try:
            certificate.verify_directly_issued_by(root)
        except (ValueError, TypeError, InvalidSignature) as error:
            raise KeyFileError(
                f"{mixer_dir / layout.ISSUING_CERT} was not issued by the root in {layout.CA_PEM}",
                remedy="restore both from the same backup",
            ) from error
        return cls(key, certificate, root)

    @property
    def chain_pem(self) -> bytes:
        """The issuing certificate as PEM: what follows a leaf in a certificate file."""
        return to_pem([self.certificate])

    @property
    def root_pem(self) -> bytes:
        """The root certificate as PEM: what everybody trusts."""
        return to_pem([self.root])

    def sign_rack(
        self,
        csr: bytes | x509.CertificateSigningRequest,
        spiffe: RackId,
        *,
        now: datetime,
        days: float = LIMITS.rack_certificate_days,
    ) -> x509.Certificate:
        """Return the client certificate of rack ``spiffe`` for the Ed25519 key in ``csr``.

        Raises:
            InputError: not a CSR, or not an Ed25519 one.
            VerificationError: it is not self-signed, or asks for another identity.
            KeyFileError: the issuing CA has expired, or the clock is before its start.
        """
        request = parse_csr(csr) if isinstance(csr, bytes) else csr
        key = csr_key(request)
        _check_requested_names(request, spiffe)
        usages = (ExtendedKeyUsageOID.CLIENT_AUTH,)
        return self._issue(key, spiffe.name, spiffe, days, now, usages, ())

    def sign_client(
        self,
        public_key: PublicKey,
        spiffe: ClientId,
        *,
        now: datetime,
        days: int = LIMITS.client_certificate_days,
    ) -> x509.Certificate:
        """Return the client certificate of a person or tool.

        Raises:
            KeyFileError: the issuing CA has expired, or the clock is before its start.
        """
        usages = (ExtendedKeyUsageOID.CLIENT_AUTH,)
        return self._issue(public_key, spiffe.name, spiffe, days, now, usages, ())

    def sign_server(
        self,
        public_key: EllipticCurvePublicKey,
        hostnames: Sequence[str],
        ips: Sequence[IPv4Address | IPv6Address],
        *,
        now: datetime,
        days: int = LIMITS.server_certificate_days,
        spiffe: MixerId | None = None,
    ) -> x509.Certificate:
        """Return a server certificate for these names and addresses, P-256 as browsers ask.

        Raises:
            InputError: no name at all, or another kind of key.
            KeyFileError: the issuing CA has expired, or the clock is before its start.
        """
        if not hostnames and not ips:
            raise InputError("a server certificate needs at least one host name or address")
        if not isinstance(public_key.curve, SECP256R1):
            raise InputError(f"a server key is P-256, not {public_key.curve.name}")
        names = (*(x509.DNSName(host) for host in hostnames), *(x509.IPAddress(ip) for ip in ips))
        subject = hostnames[0] if hostnames else str(ips[0])
        usages = (ExtendedKeyUsageOID.SERVER_AUTH,)
        return self._issue(public_key, subject, spiffe, days, now, usages, names)

    def _issue(
        self,
        public_key: PublicKey,
        common_name: str,
        spiffe: SpiffeId | None,
        days: float,
        now: datetime,
        usages: tuple[x509.ObjectIdentifier, ...],
        names: tuple[x509.GeneralName, ...],
    ) -> x509.Certificate:
        uri = () if spiffe is None else (x509.UniformResourceIdentifier(spiffe.uri),)
        # X.520 ub-common-name is 64 characters; the SAN carries the name that is checked.
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])
        request = _Request(public_key, subject, days, (*uri, *names), usages)
        return _sign(request, self._key, self.certificate, now)


def _check_requested_names(csr: x509.CertificateSigningRequest, spiffe: RackId) -> None:
    try:
        names = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return
    except (ValueError, x509.DuplicateExtension):
        raise VerificationError("the CSR asks for names that cannot be read") from None
    if list(names) != [x509.UniformResourceIdentifier(spiffe.uri)]:
        asked = ", ".join(str(name.value) for name in names)
        raise VerificationError(f"the CSR asks for {asked}, and only {spiffe.uri} may be certified here")


def _name(common_name: str, cluster: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, cluster),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64]),
        ]
    )


def _sign(
    request: _Request, key: EllipticCurvePrivateKey, issuer: x509.Certificate | None, now: datetime
) -> x509.Certificate:
    life = timedelta(days=request.days)
    not_before = now - min(timedelta(seconds=LIMITS.backdate_s), life / 12)
    not_after = now + life
    if issuer is not None:
        _check_issuer_time(issuer, now)
        not_before = max(not_before, issuer.not_valid_before_utc)
        not_after = min(not_after, issuer.not_valid_after_utc)
    is_ca = request.ca_path_length is not None
    issuer_key = key.public_key()
    builder = (
        x509.CertificateBuilder()
        .subject_name(request.subject)
        .issuer_name(request.subject if issuer is None else issuer.subject)
        .public_key(request.public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=request.ca_path_length), critical=True)
        .add_extension(_key_usage(is_ca), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(request.public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )
    if request.usages:
        builder = builder.add_extension(x509.ExtendedKeyUsage(request.usages), critical=False)
    if request.names:
        builder = builder.add_extension(x509.SubjectAlternativeName(request.names), critical=False)
    return builder.sign(key, hashes.SHA256())


def _check_issuer_time(issuer: x509.Certificate, now: datetime) -> None:
    name = issuer.subject.rfc4514_string()
    if now >= issuer.not_valid_after_utc:
        raise KeyFileError(
            f"the CA {name} expired on {issuer.not_valid_after_utc:%Y-%m-%d}",
            remedy="make a new issuing CA with the offline root key",
        )
    if now < issuer.not_valid_before_utc:
        raise KeyFileError(
            f"the CA {name} is valid only from {issuer.not_valid_before_utc:%Y-%m-%d %H:%M} UTC, "
            f"and it is {now:%Y-%m-%d %H:%M} here",
            remedy="set this machine's clock",
        )


def _key_usage(is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        encipher_only=False,
        decipher_only=False,
    )
