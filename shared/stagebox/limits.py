"""Every size, count, rate and time limit both ends agree on, in one place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SharedLimits:
    """Limits of the shared formats and the bus client. Sizes in bytes, times in seconds."""

    # Formats
    max_envelope_bytes: int = 1 << 20
    max_envelope_items: int = 16  # an envelope has five; more only makes it a better error
    max_passport_bytes: int = 16 << 10
    max_record_bytes: int = 64 << 10
    max_checkpoint_bytes: int = 256 << 10
    max_control_bytes: int = 512 << 10
    max_control_items: int = 1024  # decoded before anybody knows who signed them
    max_denied: int = 4096  # entries of the deny list: it must fit a control message
    max_seal_bytes: int = 4 << 10
    max_wal_batch_bytes: int = 768 << 10
    max_audit_row_bytes: int = 16 << 10
    max_name_chars: int = 63
    max_channels: int = 64
    max_programmes: int = 16  # of one source: with 64 channels a meter frame still fits 1.5 KiB
    max_streams_per_checkpoint: int = 256
    max_digests_per_stream: int = 4096
    max_chain_certificates: int = 3
    max_certificate_bytes: int = 8 << 10
    max_cbor_depth: int = 16

    # Key files
    max_key_file_bytes: int = 64 << 10


LIMITS = SharedLimits()
