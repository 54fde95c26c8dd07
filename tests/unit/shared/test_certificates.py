from __future__ import annotations

import base64
import datetime
from collections.abc import Sequence
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding

from stagebox import certificates
from stagebox.errors import DecodeError, KeyFileError, VerificationError
from stagebox.identity import ClientId, RackId, Role
from stagebox.limits import LIMITS
from support.pki import DAY, NOW, SERVER, Ca, PublicKey, uri

RACK = RackId("flux-prod", "default", "stage-left")
KEY = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))
PUBLIC = KEY.public_key()
ROOT = Ca("root")
ISSUING = Ca("issuing", ROOT)
LEAF = ISSUING.issue(PUBLIC, [uri(RACK.uri)])


def verify(
    leaf: x509.Certificate = LEAF,
    intermediates: Sequence[x509.Certificate] = (ISSUING.certificate,),
    roots: Sequence[x509.Certificate] = (ROOT.certificate,),
    now: datetime.datetime = NOW,
) -> object:
    return certificates.verify_chain(leaf, intermediates, roots, now)


def test_a_chain_of_root_issuing_and_rack_verifies_to_the_rack() -> None:
    assert verify() == RACK


def test_a_clients_chain_verifies_to_the_client_with_either_kind_of_key() -> None:
    client = ClientId("flux-prod", Role.VIEWER, "ops")
    keys: list[PublicKey] = [PUBLIC, ec.generate_private_key(ec.SECP256R1()).public_key()]
    for key in keys:
        assert verify(ISSUING.issue(key, [uri(client.uri)])) == client


@pytest.mark.parametrize("now", [NOW - 2 * DAY, NOW + 2 * DAY])
def test_a_certificate_outside_its_lifetime_is_refused(now: datetime.datetime) -> None:
    with pytest.raises(VerificationError, match="does not verify"):
        verify(now=now)


def test_an_expired_issuing_ca_is_refused() -> None:
    expired = Ca("issuing", ROOT, days=1)
    leaf = expired.issue(PUBLIC, [uri(RACK.uri)], not_after=NOW + 30 * DAY)
    assert verify(leaf, [expired.certificate]) == RACK
    with pytest.raises(VerificationError):
        verify(leaf, [expired.certificate], now=NOW + 2 * DAY)


def test_another_authority_is_refused_also_under_the_same_name() -> None:
    impostor = Ca("root")
    with pytest.raises(VerificationError):
        verify(impostor.issue(PUBLIC, [uri(RACK.uri)]), [])
    with pytest.raises(VerificationError):
        verify(impostor.issue(PUBLIC, [uri(RACK.uri)]), [impostor.certificate])
    with pytest.raises(VerificationError):
        verify(roots=[impostor.certificate])


def test_a_missing_intermediate_is_refused() -> None:
    with pytest.raises(VerificationError):
        verify(intermediates=[])


def test_a_rack_cannot_issue_certificates() -> None:
    forger = Ca("rack as a CA")
    forger.name = LEAF.subject
    forged = forger.issue(PUBLIC, [uri(RACK.uri.replace("left", "right"))])
    with pytest.raises(VerificationError):
        verify(forged, [LEAF, ISSUING.certificate])


def test_without_any_root_nothing_verifies() -> None:
    with pytest.raises(VerificationError):
        verify(roots=[])


def test_a_server_certificate_does_not_pass_as_a_client() -> None:
    with pytest.raises(VerificationError, match="does not verify"):
        verify(ISSUING.issue(PUBLIC, [uri(RACK.uri)], usage=SERVER))


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ([x509.DNSName("stage-left.example")], "0 URIs"),
        ([uri(RACK.uri), uri(RACK.uri.replace("left", "right"))], "2 URIs"),
        ([uri("https://example.org/")], "not a SPIFFE identity"),
        ([uri(RACK.uri + "/x")], "not an identity"),
        ([uri("spiffe://flux-prod/client/root/ops")], "not an identity"),
    ],
)
def test_a_certificate_that_names_nobody_or_two_is_refused(
    names: list[x509.GeneralName], reason: str
) -> None:
    with pytest.raises(VerificationError, match=reason):
        verify(ISSUING.issue(PUBLIC, names))


def test_a_certificate_without_any_name_is_refused() -> None:
    leaf = ISSUING.issue(PUBLIC)
    with pytest.raises(VerificationError):
        verify(leaf)
    with pytest.raises(VerificationError, match="no subject alternative name"):
        certificates.spiffe_identity(leaf)


def test_a_name_of_a_kind_nobody_reads_is_refused() -> None:
    der = LEAF.public_bytes(Encoding.DER)
    place = der.index(b"spiffe://") - 2
    odd = der[:place] + b"\xa3" + der[place + 1 :]  # an x400Address in place of the URI
    with pytest.raises(VerificationError, match="no subject alternative name"):
        certificates.spiffe_identity(x509.load_der_x509_certificate(odd))


def test_a_racks_key_is_ed25519() -> None:
    assert certificates.public_ed25519(LEAF) == PUBLIC.public_bytes_raw()
    other = ISSUING.issue(ec.generate_private_key(ec.SECP256R1()).public_key(), [uri(RACK.uri)])
    assert certificates.is_p256(other)
    with pytest.raises(VerificationError, match="Ed25519"):
        certificates.public_ed25519(other)


def test_the_pin_is_the_sha256_of_the_der() -> None:
    digest = certificates.root_pin(ROOT.certificate)
    assert digest.startswith("sha256:")
    assert len(digest) == 7 + 64
    assert digest == certificates.fingerprint(x509.load_pem_x509_certificate(ROOT.pem))
    assert digest != certificates.root_pin(Ca("root").certificate)


@pytest.mark.parametrize("key", [KEY, ec.generate_private_key(ec.SECP256R1())], ids=["ed25519", "p256"])
def test_a_csr_proves_possession_and_asks_for_no_identity(
    key: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey,
) -> None:
    csr = x509.load_pem_x509_csr(certificates.build_csr(key, "stagebox-rack"))
    assert csr.is_signature_valid
    assert csr.public_key() == key.public_key()
    assert len(csr.extensions) == 0


def test_a_der_chain_is_bounded_in_number_and_size() -> None:
    der = LEAF.public_bytes(Encoding.DER)
    parsed = certificates.parse_der_chain([der, ISSUING.certificate.public_bytes(Encoding.DER)], "chain")
    assert parsed == [LEAF, ISSUING.certificate]
    assert certificates.to_der(parsed)[0] == der
    for chain in ([], [der] * (LIMITS.max_chain_certificates + 1), [b"", der], [der[:-1]], [der + b"\0"],
                  [bytes(LIMITS.max_certificate_bytes + 1)]):  # fmt: skip
        with pytest.raises(DecodeError, match="chain holds"):
            certificates.parse_der_chain(chain, "chain")


@pytest.mark.parametrize("data", [b"", b"nonsense", b"-----BEGIN CERTIFICATE-----\n", ROOT.pem[:-40]])
def test_damaged_pem_is_refused_with_where_it_stood(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(DecodeError, match="the bundle"):
        certificates.parse_pem(data, "the bundle")
    path = tmp_path / "rack.pem"
    path.write_bytes(data)
    with pytest.raises(KeyFileError, match=str(path)):
        certificates.load_certificates(path)


def test_certificates_survive_a_file_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "rack.pem"
    path.write_bytes(certificates.to_pem([LEAF, ISSUING.certificate]))
    assert certificates.load_certificates(path) == [LEAF, ISSUING.certificate]
    with pytest.raises(KeyFileError, match="cannot read"):
        certificates.load_certificates(tmp_path / "missing.pem")


def test_a_certificate_of_no_known_version_is_not_readable() -> None:
    der = LEAF.public_bytes(Encoding.DER).replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x63", 1)
    with pytest.raises(DecodeError, match="not a certificate"):
        certificates.parse_der_chain([der], "the chain")
    with pytest.raises(DecodeError, match="no readable PEM certificate"):
        certificates.parse_pem(_pem(der), "the file")


def _pem(der: bytes) -> bytes:
    text = base64.encodebytes(der).decode("ascii")
    return f"-----BEGIN CERTIFICATE-----\n{text}-----END CERTIFICATE-----\n".encode("ascii")
