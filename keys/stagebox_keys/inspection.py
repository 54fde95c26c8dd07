"""``keys inspect``: say what a file or directory of a cluster is, without ever showing a secret.

Only public facts are read out of a private key: what kind it is, and its public half if it can be opened.
"""

from __future__ import annotations

import hashlib
import stat
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from stagebox.certificates import fingerprint, load_certificates
from stagebox.errors import InputError, KeyFileError, StageboxError
from stagebox.keyfiles import load_private_key
from stagebox.modules import vendor_root
from stagebox.modules.statement import key_id
from stagebox.modules.vendor_root import VendorRoot
from stagebox_keys import layout, nats_jwt
from stagebox_keys.cluster_file import ClusterInfo
from stagebox_keys.limits import LIMITS

Facts = dict[str, object]


def inspect(path: Path, passphrase: bytes | None, now: datetime) -> list[Facts]:
    """Describe a file, or every file below a directory.

    In a directory a file that cannot be described becomes an entry with ``error``; a single file raises.

    Raises:
        InputError: it is nothing that belongs to a cluster.
        KeyFileError: it cannot be read or is damaged.
    """
    if not path.is_dir():
        return _describe(path, passphrase, now)
    found: list[Facts] = []
    for file in sorted(item for item in path.rglob("*") if item.is_file()):
        try:
            found += _describe(file, passphrase, now)
        except StageboxError as error:
            found.append({"file": str(file), "error": error.message})
    if not found:
        raise InputError(f"the directory {path} holds no files")
    return found


def _describe(path: Path, passphrase: bytes | None, now: datetime) -> list[Facts]:
    data = _read(path)
    head: Facts = {"file": str(path), "mode": f"{stat.S_IMODE(path.stat().st_mode):04o}"}
    if b"PRIVATE KEY-----" in data:
        return [{**head, **_private_key(path, data, passphrase)}]
    if b"-----BEGIN CERTIFICATE-----" in data:
        return [{**head, **_certificate(cert, now)} for cert in load_certificates(path)]
    if b"-----BEGIN PUBLIC KEY-----" in data:
        return [{**head, **_public_pem(path, data)}]
    if path.name == layout.CLUSTER_TOML:
        return [{**head, **_cluster(path)}]
    if path.name == layout.CLIENT_PROFILE:
        return [{**head, "kind": "client settings"}]
    if path.suffix == ".toml":
        return [{**head, **_vendor(path, data, now)}]
    try:
        return [{**head, **_token(data.decode("ascii").strip())}]
    except (InputError, UnicodeDecodeError):
        raise InputError(
            f"{path} is no key, certificate, NATS token, vendor or cluster file",
            remedy="for a rack's state.flux use `stagebox passport inspect`",
        ) from None


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            data = stream.read(LIMITS.pem_bytes + 1)
    except OSError as error:
        raise KeyFileError(f"cannot read {path}: {error.strerror}") from None
    if len(data) > LIMITS.pem_bytes:
        raise InputError(f"{path} is larger than {LIMITS.pem_bytes} bytes, so it is no key or certificate")
    return data


def _private_key(path: Path, data: bytes, passphrase: bytes | None) -> Facts:
    encrypted = b"BEGIN ENCRYPTED PRIVATE KEY" in data
    facts: Facts = {"kind": "private key", "encrypted": encrypted}
    if encrypted and passphrase is None:
        return {**facts, "public": "give the passphrase to see it"}
    public = load_private_key(path, passphrase).public_key()
    facts |= _public_key(public)
    if path.name == layout.VENDOR_KEY and isinstance(public, Ed25519PublicKey):
        facts["key_id"] = key_id(public.public_bytes_raw()).hex()
    return facts


def _public_pem(path: Path, data: bytes) -> Facts:
    try:
        return {"kind": "public key", **_public_key(load_pem_public_key(data))}
    except ValueError:
        raise KeyFileError(f"the public key {path} is truncated or damaged") from None


def _public_key(key: object) -> Facts:
    if isinstance(key, Ed25519PublicKey):
        return {"algorithm": "Ed25519", "public": key.public_bytes_raw().hex()}
    if isinstance(key, EllipticCurvePublicKey):
        der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return {"algorithm": key.curve.name, "public": f"sha256:{hashlib.sha256(der).hexdigest()}"}
    return {"algorithm": type(key).__name__}


def _certificate(certificate: x509.Certificate, now: datetime) -> Facts:
    extensions = certificate.extensions
    try:
        constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        constraints = x509.BasicConstraints(ca=False, path_length=None)
    try:
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        alternative = [str(name.value) for name in names]
    except x509.ExtensionNotFound:
        alternative = []
    state = "valid"
    if now < certificate.not_valid_before_utc:
        state = "not yet valid"
    elif now >= certificate.not_valid_after_utc:
        state = "expired"
    return {
        "kind": "CA certificate" if constraints.ca else "certificate",
        "subject": certificate.subject.rfc4514_string(),
        "issuer": certificate.issuer.rfc4514_string(),
        "names": alternative,
        "not_before": certificate.not_valid_before_utc.isoformat(),
        "not_after": certificate.not_valid_after_utc.isoformat(),
        "state": state,
        "serial": f"{certificate.serial_number:x}",
        "fingerprint": fingerprint(certificate),
        **_public_key(certificate.public_key()),
    }


def _vendor(path: Path, data: bytes, now: datetime) -> Facts:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text") from None
    return vendor_facts(vendor_root.parse(text, str(path)), now)


def vendor_facts(root: VendorRoot, now: datetime) -> Facts:
    """Describe a vendor root."""
    facts: Facts = {
        "kind": "module vendor",
        "owner": root.owner,
        "key_id": root.key_id.hex(),
        "public": root.public.hex(),
        "not_before": _utc(root.not_before),
        "not_after": _utc(root.not_after),
        "state": _vendor_state(root, now),
        "capabilities": [capability.value for capability in root.capabilities],
        "modules": list(root.modules),
    }
    if root.revoked:
        facts["reason"] = root.reason
    return facts


def _vendor_state(root: VendorRoot, now: datetime) -> str:
    now_ns = int(now.timestamp() * 1e9)
    if root.revoked:
        return "revoked"
    if now_ns < root.not_before:
        return "not yet valid"
    return "valid" if now_ns < root.not_after else "expired"


def _utc(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns // 1_000_000_000, UTC).isoformat()


def _cluster(path: Path) -> Facts:
    info = ClusterInfo.load(path)
    return {
        "kind": "cluster",
        "name": info.name,
        "created": info.created.isoformat(),
        "operator": info.operator,
        "system_account": info.system_account,
        "auth_account": info.auth_account,
        "stagebox_account": info.stagebox_account,
        "store_account": info.store_account,
    }


def _token(text: str) -> Facts:
    claims = nats_jwt.decode_unverified(text)
    issuer, subject = str(claims.get("iss")), str(claims.get("sub"))
    nats = claims["nats"]
    kind = str(nats.get("type")) if isinstance(nats, dict) else ""
    # The signature shows that the named issuer made it; whether that issuer counts is for its user to know.
    nats_jwt.verify(text, now_s=None, kind=kind, issuer=issuer)
    facts: Facts = {
        "kind": f"NATS {kind} token",
        "name": claims.get("name"),
        "subject": subject,
        "issuer": issuer,
    }
    for claim, name in (("iat", "issued_at"), ("exp", "expires_at")):
        value = claims.get(claim)
        if isinstance(value, int):
            facts[name] = datetime.fromtimestamp(value, UTC).isoformat()
    if isinstance(nats, dict):
        for name in ("signing_keys", "authorization", "issuer_account", "pub", "sub"):
            if name in nats:
                facts[name] = nats[name]
        if nats.get("bearer_token"):
            facts["bearer"] = True
    return facts
