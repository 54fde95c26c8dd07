"""TLS 1.3 contexts for both ends, and the cipher policy.

Peers are always verified; there is no switch to turn that off. A context can be reloaded in place
(``load_cert_chain`` on the live object), which is how certificates are swapped without a restart.
"""

from __future__ import annotations

import ssl
import sys
from pathlib import Path

from stagebox.cipher_policy import CIPHER_SUITE
from stagebox.errors import TlsError


def offers_only_aes256() -> bool:
    """Tell whether a context made now offers TLS_AES_256_GCM_SHA384 alone."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    suites = {cipher["name"] for cipher in context.get_ciphers() if cipher["protocol"] == "TLSv1.3"}
    return suites == {CIPHER_SUITE}


def client_context(
    roots_pem: bytes, certificate: Path | None = None, key: Path | None = None
) -> ssl.SSLContext:
    """Return a TLS 1.3 client context that trusts ``roots_pem`` only.

    Raises:
        TlsError: the bundle or the client certificate cannot be loaded.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    _restrict(context)
    _load_roots(context, roots_pem)
    if certificate is not None:
        load_identity(context, certificate, key)
    return context


def server_context(
    roots_pem: bytes, certificate: Path, key: Path, *, client_certificate: ssl.VerifyMode
) -> ssl.SSLContext:
    """Return a TLS 1.3 server context; client certificates are checked against ``roots_pem``.

    Raises:
        TlsError: the bundle or the server certificate cannot be loaded.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = client_certificate
    context.num_tickets = 0  # a resumed session would skip the client certificate check
    _load_roots(context, roots_pem)
    load_identity(context, certificate, key)
    return context


def load_identity(context: ssl.SSLContext, certificate: Path, key: Path | None) -> None:
    """Load (or hot-swap) our own certificate into a context.

    Raises:
        TlsError: missing or unreadable files, or the key is not the certificate's.
    """
    try:
        context.load_cert_chain(certificate, key, password=_no_passphrase)
    except (OSError, ssl.SSLError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or "unreadable"
        raise TlsError(
            f"cannot use the certificate {certificate} with its key: {reason}",
            remedy="check that both files exist, belong together and are readable by this user",
        ) from None


def _no_passphrase() -> str:
    # Without a callback OpenSSL would ask on the terminal and hang a headless box.
    raise ssl.SSLError("the private key is encrypted")


def _load_roots(context: ssl.SSLContext, roots_pem: bytes) -> None:
    try:
        context.load_verify_locations(cadata=roots_pem.decode("ascii"))
    except (ssl.SSLError, UnicodeDecodeError, ValueError):
        raise TlsError("the CA bundle holds no usable certificate", remedy="fetch ca.pem again") from None


def _restrict(context: ssl.SSLContext) -> None:
    # Python 3.15 can do it per context; before that OPENSSL_CONF is the only way.
    if sys.version_info >= (3, 15):
        context.set_ciphersuites(CIPHER_SUITE)
