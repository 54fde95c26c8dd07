"""The JetStream streams and buckets the mixer owns, and how they are made. The names are part of the wire."""

from __future__ import annotations

from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, KeyValueConfig, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import NotFoundError

WAL_STREAM = "WAL"
AUDIT_STREAM = "AUDIT"
RACKS_BUCKET = "stagebox_racks"
TOKENS_BUCKET = "stagebox_tokens"


def wal_stream() -> StreamConfig:
    """Return the stream of acknowledged journal batches.

    Nothing in it expires: the ingest trims it behind its own commits, so an uncommitted batch is never lost.
    """
    return StreamConfig(
        name=WAL_STREAM,
        subjects=["rack.*.wal"],
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        discard=DiscardPolicy.NEW,
        allow_direct=True,
        allow_atomic=True,
        duplicate_window=120.0,
    )


def audit_stream() -> StreamConfig:
    """Return the append-only stream of audit rows."""
    return StreamConfig(
        name=AUDIT_STREAM,
        subjects=["mixer.audit.>"],
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        discard=DiscardPolicy.NEW,
        allow_direct=True,
        deny_delete=True,
        deny_purge=True,
    )


async def ensure(js: JetStreamContext) -> None:
    """Create what is missing; what exists keeps its data."""
    for config in (wal_stream(), audit_stream()):
        try:
            await js.stream_info(str(config.name))
        except NotFoundError:
            await js.add_stream(config)
    for bucket in (RACKS_BUCKET, TOKENS_BUCKET):
        try:
            await js.key_value(bucket)
        except NotFoundError:
            await js.create_key_value(KeyValueConfig(bucket=bucket, history=8, storage=StorageType.FILE))
