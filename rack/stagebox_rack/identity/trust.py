"""Which roots the rack trusts: the pinned one, then what bundles signed by the pinned cluster say.

A bundle never replaces one of a higher serial, and always names a root that is trusted already, so trust is handed
on and never swapped. ``trust.cbor`` (the signed bundle) is written before ``ca.pem``, which is made from it.
"""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from stagebox.certificates import parse_der_chain, parse_pem, to_pem
from stagebox.control.trust import TrustBundle, open_trust_bundle
from stagebox.errors import StageboxError, StorageError, VerificationError
from stagebox.files import write_atomic
from stagebox.limits import LIMITS
from stagebox_rack.state import StatePaths


def check_bundle(
    data: bytes, *, cluster: str, cluster_public: bytes, roots_pem: bytes, held_serial: int
) -> tuple[TrustBundle, list[x509.Certificate]]:
    """Verify a bundle against the pinned cluster and what is held; return it and its roots.

    Raises:
        DecodeError: malformed. VerificationError: not the cluster's, older, or without any root trusted now.
    """
    bundle = open_trust_bundle(data, cluster_public)
    if (bundle.cluster, bundle.cluster_public) != (cluster, cluster_public):
        raise VerificationError("the trust bundle is of another cluster, or names another cluster key")
    if bundle.serial < held_serial:
        raise VerificationError(f"the trust bundle has serial {bundle.serial}, ours has {held_serial}: older")
    roots = parse_der_chain(bundle.roots, "the trust bundle")
    trusted = {_der(root) for root in parse_pem(roots_pem, "ca.pem")}
    if trusted.isdisjoint(_der(root) for root in roots):
        raise VerificationError("the trust bundle names no root that this rack trusts")
    return bundle, roots


def load_bundle(paths: StatePaths, cluster_public: bytes) -> tuple[bytes, TrustBundle] | None:
    """Return the stored bundle, None when there is none that verifies.

    Raises:
        StorageError: it is there and cannot be read.
    """
    try:
        with paths.trust.open("rb") as stream:
            data = stream.read(LIMITS.max_envelope_bytes + 1)
        return data, open_trust_bundle(data, cluster_public)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"cannot read {paths.trust}: {error.strerror}") from error
    except StageboxError:
        return None  # ca.pem still says whom to trust; the next renewal brings a bundle again


def store_bundle(paths: StatePaths, data: bytes, roots: list[x509.Certificate]) -> None:
    """Store a checked bundle and the roots it names; what is there already is not written again.

    Raises:
        StorageError: it cannot be written.
    """
    if not paths.trust.exists() or paths.trust.read_bytes() != data:
        write_atomic(paths.trust, data, mode=0o644)
    _write_roots(paths, roots)


def heal(paths: StatePaths, cluster_public: bytes) -> None:
    """Finish :func:`store_bundle` after a crash between its two files.

    Raises:
        StorageError: a file cannot be read or written.
    """
    found = load_bundle(paths, cluster_public)
    if found is not None:
        _write_roots(paths, parse_der_chain(found[1].roots, "the trust bundle"))


def _write_roots(paths: StatePaths, roots: list[x509.Certificate]) -> None:
    pem = to_pem(roots)
    if paths.roots.exists() and paths.roots.read_bytes() == pem:
        return
    write_atomic(paths.roots, pem, mode=0o644)


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)
