from __future__ import annotations

import ipaddress
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, SECP384R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store
from cryptography.x509.verification import VerificationError as ChainError

from stagebox.certificates import build_csr, public_ed25519, root_pin, verify_chain
from stagebox.errors import InputError, KeyFileError, VerificationError
from stagebox.identity import ClientId, MixerId, RackId, Role
from stagebox_keys.ca import make_issuing, make_root
from stagebox_keys.client import generate_client
from stagebox_keys.mixer_keys import MixerKeys

RACK = RackId("venue", "default", "stage-left")
PASSPHRASE = b"correct horse"


def test_a_rack_certificate_carries_its_key_and_verifies_to_its_identity(
    mixer_keys: MixerKeys, now: datetime
) -> None:
    key = Ed25519PrivateKey.generate()
    issuing = mixer_keys.issuing
    leaf = issuing.sign_rack(build_csr(key, RACK.name), RACK, now=now)
    assert verify_chain(leaf, [issuing.certificate], [issuing.root], now) == RACK
    assert public_ed25519(leaf) == key.public_key().public_bytes_raw()
    assert leaf.not_valid_after_utc == now + timedelta(days=30)


def test_a_rack_certificate_expires_and_is_backdated_by_five_minutes(
    mixer_keys: MixerKeys, now: datetime
) -> None:
    issuing = mixer_keys.issuing
    later = now + timedelta(hours=1)
    leaf = issuing.sign_rack(build_csr(Ed25519PrivateKey.generate(), RACK.name), RACK, now=later)
    assert leaf.not_valid_before_utc == later - timedelta(minutes=5)
    for wrong in (later - timedelta(minutes=6), later + timedelta(days=30, seconds=1)):
        with pytest.raises(VerificationError):
            verify_chain(leaf, [issuing.certificate], [issuing.root], wrong)


def test_a_server_certificate_satisfies_a_strict_verifier_for_its_names_only(
    mixer_keys: MixerKeys, now: datetime
) -> None:
    issuing = mixer_keys.issuing
    key = generate_private_key(SECP256R1())
    leaf = issuing.sign_server(
        key.public_key(),
        ["mixer.example.org", "localhost"],
        [ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1")],
        now=now,
        spiffe=MixerId("venue", "mixer"),
    )
    policy = PolicyBuilder().store(Store([issuing.root])).time(now)
    for subject in (
        x509.DNSName("mixer.example.org"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        x509.IPAddress(ipaddress.ip_address("::1")),
    ):
        chain = policy.build_server_verifier(subject).verify(leaf, [issuing.certificate])
        assert [cert.subject for cert in chain] == [
            leaf.subject,
            issuing.certificate.subject,
            issuing.root.subject,
        ]
    with pytest.raises(ChainError):
        policy.build_server_verifier(x509.DNSName("other.example.org")).verify(leaf, [issuing.certificate])
    with pytest.raises(ChainError):
        policy.build_client_verifier().verify(leaf, [issuing.certificate])


def test_a_client_certificate_is_for_clients_only(mixer_keys: MixerKeys, now: datetime) -> None:
    issuing = mixer_keys.issuing
    identity = ClientId("venue", Role.VIEWER, "wall")
    leaf = issuing.sign_client(generate_private_key(SECP256R1()).public_key(), identity, now=now)
    assert verify_chain(leaf, [issuing.certificate], [issuing.root], now) == identity
    usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usages) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def test_every_leaf_has_the_extensions_of_rfc_5280(mixer_keys: MixerKeys, now: datetime) -> None:
    issuing = mixer_keys.issuing
    leaf = issuing.sign_rack(build_csr(Ed25519PrivateKey.generate(), RACK.name), RACK, now=now)
    extensions = leaf.extensions
    usage = extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.digital_signature
    assert not usage.value.key_cert_sign
    constraints = extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert not constraints.value.ca
    authority = extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    issuer = issuing.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    assert authority.key_identifier == issuer.digest
    assert extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest


def test_the_chain_is_root_with_path_length_1_and_issuing_with_0(mixer_keys: MixerKeys) -> None:
    for certificate, length, years in (
        (mixer_keys.issuing.root, 1, 10),
        (mixer_keys.issuing.certificate, 0, 5),
    ):
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        assert (constraints.ca, constraints.path_length) == (True, length)
        life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
        assert abs(life - timedelta(days=365.25 * years)) < timedelta(days=2)
        key = certificate.public_key()
        assert isinstance(getattr(key, "curve", None), SECP256R1)


def test_serial_numbers_do_not_repeat(mixer_keys: MixerKeys, now: datetime) -> None:
    csr = build_csr(Ed25519PrivateKey.generate(), RACK.name)
    serials = {mixer_keys.issuing.sign_rack(csr, RACK, now=now).serial_number for _ in range(20)}
    assert len(serials) == 20
    assert min(serials).bit_length() > 64


def test_a_csr_whose_signature_was_altered_proves_nothing(mixer_keys: MixerKeys, now: datetime) -> None:
    pem = build_csr(Ed25519PrivateKey.generate(), RACK.name)
    der = bytearray(x509.load_pem_x509_csr(pem).public_bytes(Encoding.DER))
    der[-1] ^= 1
    with pytest.raises(VerificationError, match="not signed by the key"):
        mixer_keys.issuing.sign_rack(bytes(der), RACK, now=now)


def test_a_csr_with_another_kind_of_key_is_refused(mixer_keys: MixerKeys, now: datetime) -> None:
    csr = build_csr(generate_private_key(SECP256R1()), RACK.name)
    with pytest.raises(InputError, match="Ed25519"):
        mixer_keys.issuing.sign_rack(csr, RACK, now=now)


def test_a_csr_that_asks_for_another_rack_is_refused(mixer_keys: MixerKeys, now: datetime) -> None:
    csr = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"{RACK.uri}-2")]), critical=False
        )
        .sign(Ed25519PrivateKey.generate(), None)
    )
    with pytest.raises(VerificationError, match="stage-left-2"):
        mixer_keys.issuing.sign_rack(csr, RACK, now=now)


@pytest.mark.parametrize(
    "data", [b"", b"not a csr", b"-----BEGIN CERTIFICATE REQUEST-----\n", b"\x30" * 20_000]
)
def test_what_is_not_a_csr_is_refused(mixer_keys: MixerKeys, now: datetime, data: bytes) -> None:
    with pytest.raises(InputError, match="CSR"):
        mixer_keys.issuing.sign_rack(data, RACK, now=now)


def test_a_server_key_must_be_p256_and_named(mixer_keys: MixerKeys, now: datetime) -> None:
    with pytest.raises(InputError, match="P-256"):
        mixer_keys.issuing.sign_server(generate_private_key(SECP384R1()).public_key(), ["x"], [], now=now)
    with pytest.raises(InputError, match="at least one"):
        mixer_keys.issuing.sign_server(generate_private_key(SECP256R1()).public_key(), [], [], now=now)


def test_no_certificate_outlives_its_issuer(mixer_keys: MixerKeys) -> None:
    issuing = mixer_keys.issuing
    end = issuing.certificate.not_valid_after_utc
    csr = build_csr(Ed25519PrivateKey.generate(), RACK.name)
    assert issuing.sign_rack(csr, RACK, now=end - timedelta(days=1)).not_valid_after_utc == end
    with pytest.raises(KeyFileError, match="expired"):
        issuing.sign_rack(csr, RACK, now=end)


def test_a_clock_before_the_issuer_is_named(mixer_keys: MixerKeys) -> None:
    issuing = mixer_keys.issuing
    csr = build_csr(Ed25519PrivateKey.generate(), RACK.name)
    with pytest.raises(KeyFileError, match="valid only from") as refused:
        issuing.sign_rack(csr, RACK, now=datetime(1970, 1, 1, tzinfo=UTC))
    assert refused.value.remedy == "set this machine's clock"


def test_a_certificate_from_another_cluster_does_not_verify(mixer_keys: MixerKeys, now: datetime) -> None:
    root_key, issuing_key = generate_private_key(SECP256R1()), generate_private_key(SECP256R1())
    root = make_root("venue", root_key, now)
    other = make_issuing("venue", issuing_key.public_key(), root, root_key, now)
    leaf = mixer_keys.issuing.sign_rack(build_csr(Ed25519PrivateKey.generate(), RACK.name), RACK, now=now)
    with pytest.raises(VerificationError):
        verify_chain(leaf, [other], [root], now)
    assert root_pin(root) != root_pin(mixer_keys.issuing.root)


def test_gen_client_makes_files_that_openssl_loads(cluster_dir: Path, tmp_path: Path, now: datetime) -> None:
    made = generate_client(cluster_dir, Role.ADMIN, "ops", tmp_path / "ops", PASSPHRASE, now)
    assert {path.name for path in made.directory.iterdir()} == set(made.files)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_cert_chain(made.directory / "client.crt", made.directory / "client.key")
    context.load_verify_locations(made.directory / "ca.pem")
    assert (made.directory / "client.key").stat().st_mode & 0o777 == 0o600
    assert (made.directory / "cluster.pub").read_bytes() == (cluster_dir / "cluster.pub").read_bytes()
    leaf, intermediate = x509.load_pem_x509_certificates((made.directory / "client.crt").read_bytes())
    root = x509.load_pem_x509_certificate((made.directory / "ca.pem").read_bytes())
    assert verify_chain(leaf, [intermediate], [root], now) == ClientId("venue", Role.ADMIN, "ops")


def test_gen_client_refuses_to_overwrite(cluster_dir: Path, tmp_path: Path, now: datetime) -> None:
    generate_client(cluster_dir, Role.VIEWER, "wall", tmp_path / "wall", PASSPHRASE, now)
    before = (tmp_path / "wall" / "client.key").read_bytes()
    with pytest.raises(KeyFileError, match="never overwritten"):
        generate_client(cluster_dir, Role.VIEWER, "wall", tmp_path / "wall", PASSPHRASE, now)
    assert (tmp_path / "wall" / "client.key").read_bytes() == before


@pytest.mark.parametrize("days", [0, -1, 826])
def test_gen_client_refuses_an_unreasonable_life(
    cluster_dir: Path, tmp_path: Path, now: datetime, days: int
) -> None:
    with pytest.raises(InputError, match="--days"):
        generate_client(cluster_dir, Role.VIEWER, "wall", tmp_path / "wall", PASSPHRASE, now, days)
    assert list(tmp_path.iterdir()) == []


def _csr_that_asks_for_names_twice(key: Ed25519PrivateKey) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("a")]), critical=False)
    builder = builder.add_extension(x509.UnrecognizedExtension(_ALT_NAME, b"\x30\x00"), critical=False)
    signed = builder.sign(key, None)
    tbs = signed.tbs_certrequest_bytes.replace(_ALT_NAME_DER, bytes.fromhex("551d11"))
    return (
        signed.public_bytes(Encoding.DER)
        .replace(signed.tbs_certrequest_bytes, tbs)
        .replace(signed.signature, key.sign(tbs))
    )


_ALT_NAME, _ALT_NAME_DER = x509.ObjectIdentifier("2.5.29.99"), bytes.fromhex("551d63")
_ED25519, _UNKNOWN = bytes.fromhex("06032b6570"), bytes.fromhex("06032b6572")


def test_a_csr_that_cannot_be_read_is_refused_and_nothing_else(mixer_keys: MixerKeys, now: datetime) -> None:
    key = Ed25519PrivateKey.generate()
    plain = x509.load_pem_x509_csr(build_csr(key, RACK.name)).public_bytes(Encoding.DER)
    unreadable = (
        plain.replace(_ED25519, _UNKNOWN, 1),
        plain.replace(b"\x02\x01\x00", b"\x02\x01\x63", 1),
        _csr_that_asks_for_names_twice(key),
    )
    for csr in unreadable:
        with pytest.raises((InputError, VerificationError)):
            mixer_keys.issuing.sign_rack(csr, RACK, now=now)
