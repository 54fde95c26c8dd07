"""Every size, count and time limit of the key tool, in one frozen dataclass."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class KeyLimits:
    """Limits of authorities and of what they read.

    Days are 86 400 s. Sizes are in bytes.
    """

    root_ca_days: int = 3653
    issuing_ca_days: int = 1826
    rack_certificate_days: int = 30
    server_certificate_days: int = 90
    client_certificate_days: int = 365
    client_certificate_max_days: int = 825
    vendor_days: int = 730
    vendor_max_days: int = 3653
    module_signature_days: int = 730
    module_signature_max_days: int = 3653
    backdate_s: int = 300
    csr_bytes: int = 16 * 1024
    pem_bytes: int = 256 * 1024
    nats_jwt_bytes: int = 64 * 1024
    cluster_toml_bytes: int = 16 * 1024
    passphrase_bytes: int = 1024
    passphrase_min_chars: int = 8


LIMITS = KeyLimits()
