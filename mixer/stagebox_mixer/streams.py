"""The JetStream streams and buckets the mixer owns, and how they are made. The names are part of the wire."""

from __future__ import annotations

from nats.js import JetStreamContext
from nats.js.api import (
    DiscardPolicy,
    KeyValueConfig,
    ObjectStoreConfig,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)
from nats.js.errors import NotFoundError

WAL_STREAM = "WAL"
AUDIT_STREAM = "AUDIT"
RACKS_BUCKET = "stagebox_racks"
TOKENS_BUCKET = "stagebox_tokens"
DENIED_BUCKET = "stagebox_denied"
MODULES_BUCKET = "stagebox_modules"
ASSIGNMENTS_BUCKET = "stagebox_assignments"
WASM_OBJECTS = "stagebox_wasm"

_BUCKETS = (RACKS_BUCKET, TOKENS_BUCKET, DENIED_BUCKET, MODULES_BUCKET, ASSIGNMENTS_BUCKET)


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
        allow_atomic=True,
        deny_delete=True,
        deny_purge=True,
    )


async def ensure(js: JetStreamContext) -> None:
    """Create what is missing; what exists keeps its data, and learns what this release needs of it."""
    for config in (wal_stream(), audit_stream()):
        try:
            held = (await js.stream_info(str(config.name))).config
        except NotFoundError:
            await js.add_stream(config)
            continue
        if config.allow_atomic and not held.allow_atomic:  # the first release made the audit without
            held.allow_atomic = True
            await js.update_stream(held)
    for bucket in _BUCKETS:
        await _ensure_bucket(js, bucket)
    await _ensure_objects(js, WASM_OBJECTS)


async def _ensure_bucket(js: JetStreamContext, bucket: str) -> None:
    """Create a bucket, or set how it is read: directly, at half the cost, while it has one copy only.

    Of several copies a direct read may ask one that has not yet heard of the last write.
    """
    try:
        held = (await js.stream_info(f"KV_{bucket}")).config
    except NotFoundError:
        config = KeyValueConfig(bucket=bucket, history=8, storage=StorageType.FILE, direct=True)
        await js.create_key_value(config)
        return
    single = (held.num_replicas or 1) == 1
    if bool(held.allow_direct) != single:
        held.allow_direct = single
        await js.update_stream(held)


async def _ensure_objects(js: JetStreamContext, bucket: str) -> None:
    """Create an object store. What it holds is checked by its digest at every read, whichever copy answers."""
    try:
        await js.stream_info(f"OBJ_{bucket}")
    except NotFoundError:
        await js.create_object_store(bucket, ObjectStoreConfig(storage=StorageType.FILE))
