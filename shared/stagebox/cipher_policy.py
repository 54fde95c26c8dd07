"""The cipher policy of the snake, set before OpenSSL starts.

OpenSSL reads its configuration once, when it is first initialised, so this module must run before anything
imports ``ssl`` or ``hashlib``; it imports neither.
"""

from __future__ import annotations

import os

CIPHER_SUITE = "TLS_AES_256_GCM_SHA384"
OPENSSL_CONFIG = os.path.join(os.path.dirname(__file__), "openssl.cnf")  # noqa: PTH118, PTH120 - pathlib is slow to import


def require_aes256() -> None:
    """Make this process offer only TLS_AES_256_GCM_SHA384 in TLS 1.3.

    An operator's own ``OPENSSL_CONF`` is respected; the admission then refuses the connection if its cipher
    does not meet the policy.
    """
    os.environ.setdefault("OPENSSL_CONF", OPENSSL_CONFIG)
