"""The lake on S3-compatible storage: the same lake, spoken to over HTTP on loopback."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer
from nacl.signing import SigningKey
from pyarrow import fs

from stagebox.errors import StorageError
from stagebox.records.event import Event
from stagebox.records.walbatch import WalRecord
from stagebox_mixer.lake.lake import Lake
from stagebox_mixer.lake.reading import Span, open_reader
from stagebox_mixer.lake.state import Position
from stagebox_mixer.lake.storage import LocalStorage, open_storage
from stagebox_mixer.lake.verify import LakeDamageError, verify
from support.lake import commit, records_in
from support.rackside import Journal

KEY = bytes(range(32))
RACK = "stage-left"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Give the address of storage that speaks S3, in memory.

    Once used, Arrow's S3 client keeps its event loop for the life of the process: it is used here, before the tests.
    """
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        try:
            address = ":".join(map(str, server.get_host_and_port()))
            new_bucket(address)
            yield address
        finally:
            server.stop()


def new_bucket(server: str) -> str:
    """Return the setting ``lake`` for a new bucket."""
    options, bucket = f"endpoint_override={server}&scheme=http&region=us-east-1", f"fleet-{uuid.uuid4().hex}"
    storage, _ = fs.FileSystem.from_uri(f"s3://{bucket}?{options}&allow_bucket_creation=true")
    storage.create_dir(bucket)
    return f"s3://{bucket}/lake?{options}"


@pytest.fixture
def place(server: str) -> str:
    return new_bucket(server)


def record(number: int) -> WalRecord:
    event = Event(number, bytes(16), number, "clip", {"channel": number})
    return WalRecord("event", number, f"rack.{RACK}.event", event.encode())


async def test_a_lake_in_a_bucket_commits_sorts_reads_and_verifies(place: str, tmp_path: Path) -> None:
    for storage in (open_storage(place), LocalStorage(tmp_path / "lake")):
        lake = Lake(storage, KEY, cluster="test", keep_days=0)
        await lake.open()
        journal = Journal(RACK, SigningKey(bytes(range(32))))
        for number in range(1, 6):
            await lake.commit([commit(journal, record(number))], position=Position(1, number))
        await lake.close()
        reader = open_reader(storage, KEY, cluster="test")
        assert reader.state.position == Position(1, 5)
        assert records_in(reader, RACK) == [(n, "event", record(n).data) for n in range(1, 6)]
        assert (verify(reader, Span()).records, verify(reader, Span()).signatures) == (5, 5)
        names = sorted(name.split("/")[0] for name in storage.names("") if "manifest" in name)
        assert names == ["manifest"] * 5


async def test_a_second_writer_in_a_bucket_commits_nothing(place: str) -> None:
    journal = Journal(RACK, SigningKey(bytes(range(32))))
    one = Lake(open_storage(place), KEY, cluster="test", keep_days=0)
    other = Lake(open_storage(place), KEY, cluster="test", keep_days=0)
    await one.open()
    await other.open()
    batch = commit(journal, record(1))
    await one.commit([batch], position=Position(1, 1))
    with pytest.raises(StorageError, match="another mixer writes to it"):
        await other.commit([batch], position=Position(1, 1))
    await one.close()
    await other.close()
    assert len(records_in(open_reader(open_storage(place), KEY, cluster="test"), RACK)) == 1


async def test_what_is_altered_or_gone_in_a_bucket_is_named(place: str) -> None:
    storage = open_storage(place)
    journal = Journal(RACK, SigningKey(bytes(range(32))))
    lake = Lake(storage, KEY, cluster="test", keep_days=0)
    await lake.open()
    for number in (1, 2):
        await lake.commit([commit(journal, record(number))], position=Position(1, number))
    await lake.close()
    gone = storage.names("arrivals")[0]
    storage.delete(gone)
    with pytest.raises(LakeDamageError, match=gone):
        verify(open_reader(storage, KEY, cluster="test"), Span())


async def test_a_bucket_that_is_not_there_stops_the_start_with_a_clear_error(place: str) -> None:
    lake = Lake(open_storage(place.replace("fleet-", "nowhere-")), KEY, cluster="test", keep_days=0)
    await lake.open()
    journal = Journal(RACK, SigningKey(bytes(range(32))))
    with pytest.raises(StorageError, match="cannot write"):
        await lake.commit([commit(journal, record(1))], position=Position(1, 1))
    await lake.close()
