"""The hot file's codec: what was written comes back, and no accident makes it give back anything else."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stagebox.errors import DecodeError
from stagebox.records.seal import NO_SEAL
from stagebox.records.walbatch import FIRST_PREVIOUS, WalBatch, WalRecord, payload_digest, previous_of
from stagebox_rack.wal import journal_format as fmt
from stagebox_rack.wal.keyring import Keyring

JOURNAL = b"J" * 16
RING = Keyring(1, bytes(range(32)), JOURNAL, bytes(32))
DEK = b"D" * 32
FILE_ID = b"F" * 16


def header(first: int = 1, previous: bytes = FIRST_PREVIOUS) -> fmt.HotHeader:
    core = fmt.header_core("a", JOURNAL, first, previous, bytes(16), FILE_ID, previous_seal=NO_SEAL)
    return fmt.HotHeader(
        "a", JOURNAL, first, previous, bytes(16), FILE_ID, 1, RING.wrap(DEK, core, bytes(12))
    )


def build(groups: list[list[WalRecord]], *, zeros: int = 256) -> tuple[bytes, list[bytes]]:
    head = header()
    data, chain, first, previous = head.encode(), head.chain_start(), 1, FIRST_PREVIOUS
    payloads = []
    for number, records in enumerate(groups):
        payload = WalBatch("a", first, previous, tuple(records), JOURNAL).encode()
        frame = fmt.encode_frame(payload, first, len(records), chain, DEK, number.to_bytes(12, "big"))
        payloads.append(payload)
        data, chain = data + frame, fmt.advance(chain, frame)
        previous, first = payload_digest(payload), first + len(records)
    return data + bytes(zeros), payloads


def small(count: int = 4) -> tuple[bytes, list[bytes]]:
    return build([[WalRecord("meter", n, "rack.a.meter.m", bytes([n]) * 6)] for n in range(count)], zeros=64)


def scan(data: bytes) -> fmt.Scan:
    head = fmt.decode_header(data)
    return fmt.scan(data, head, head.unwrap(RING, "the file"))


def payloads_of(result: fmt.Scan) -> list[bytes]:
    return [frame.batch.payload for frame in result.frames]


RECORDS = st.builds(
    WalRecord,
    kind=st.text(max_size=12),
    time_ns=st.integers(0, 2**63 - 1),
    subject=st.text(max_size=24),
    data=st.binary(max_size=200),
)


@settings(deadline=None)
@given(st.lists(st.lists(RECORDS, min_size=1, max_size=5), max_size=6), st.integers(0, 300))
def test_what_was_written_is_read_back_to_the_byte(groups: list[list[WalRecord]], zeros: int) -> None:
    data, payloads = build(groups, zeros=zeros)
    result = scan(data)
    assert result.clean
    assert payloads_of(result) == payloads
    assert [frame.batch.decode().records for frame in result.frames] == [tuple(g) for g in groups]


def test_every_truncation_gives_back_whole_frames_only() -> None:
    data, payloads = small()
    ends = [frame.end for frame in scan(data).frames]
    for cut in range(len(data)):
        if cut < fmt.BLOCK_BYTES:
            with pytest.raises(DecodeError):
                scan(data[:cut])
            continue
        whole = sum(end <= cut for end in ends)
        assert payloads_of(scan(data[:cut])) == payloads[:whole], cut


def test_every_flipped_bit_is_noticed_and_costs_at_most_the_frame_it_is_in() -> None:
    data, payloads = small(3)
    clean = scan(data)
    spans = [(frame.offset, frame.end) for frame in clean.frames]
    for position in [*range(0, fmt.HEADER_BYTES, 61), *range(fmt.HEADER_BYTES, len(data))]:
        for bit in range(8):
            broken = bytearray(data)
            broken[position] ^= 1 << bit
            result = scan(bytes(broken))
            assert not result.clean, (position, bit)
            kept = [p for p, (start, end) in zip(payloads, spans, strict=True) if not start <= position < end]
            assert payloads_of(result) == kept, (position, bit)


def test_a_torn_tail_is_told_from_damage_in_the_middle() -> None:
    data, payloads = small(3)
    frames = scan(data).frames
    torn = data[: frames[2].offset + 40] + bytes(200)
    assert (payloads_of(scan(torn)), scan(torn).torn_bytes > 0, scan(torn).damage) == (payloads[:2], True, ())
    middle = bytearray(data)
    middle[frames[1].offset + 70] ^= 1
    result = scan(bytes(middle))
    assert payloads_of(result) == [payloads[0], payloads[2]]
    assert result.damage[0].start == frames[1].offset
    assert result.torn_bytes == 0


def test_a_removed_a_repeated_and_a_moved_frame_are_damage() -> None:
    data, payloads = small(3)
    head, (one, two, three) = data[: fmt.HEADER_BYTES], [data[f.offset : f.end] for f in scan(data).frames]
    for frames, kept in (
        ((one, three), [payloads[0], payloads[2]]),
        ((one, one, two, three), payloads),
        ((two, one, three), [payloads[1], payloads[2]]),
    ):
        result = scan(head + b"".join(frames) + bytes(64))
        assert result.damage
        assert payloads_of(result) == kept


def test_a_frame_of_another_file_is_not_accepted() -> None:
    data, _ = small(2)
    other = fmt.encode_frame(
        WalBatch("a", 3, bytes(32), (WalRecord("m", 0, "s", b""),), JOURNAL).encode(),
        3,
        1,
        bytes(32),
        b"E" * 32,
        bytes(12),
    )
    end = scan(data).end
    result = scan(data[:end] + other + bytes(64))
    assert len(result.frames) == 2
    assert result.torn_bytes


def test_a_header_bound_to_other_fields_does_not_open() -> None:
    core = fmt.header_core("a", JOURNAL, 7, FIRST_PREVIOUS, bytes(16), FILE_ID, previous_seal=NO_SEAL)
    forged = fmt.HotHeader(
        "a", JOURNAL, 1, FIRST_PREVIOUS, bytes(16), FILE_ID, 1, RING.wrap(DEK, core, bytes(12))
    )
    with pytest.raises(Exception, match="does not open"):
        forged.unwrap(RING, "the file")


def test_an_unknown_version_is_refused() -> None:
    from blake3 import blake3

    from stagebox import cbor

    fields = {"Version": 3, "Rack": "a"}
    body = cbor.encode(fields)
    block = (fmt.FILE_MAGIC + len(body).to_bytes(4, "big") + body).ljust(fmt.BLOCK_BYTES - 32, b"\0")
    with pytest.raises(DecodeError, match="version 3"):
        fmt.decode_header((block + blake3(block).digest()) * 2)


@given(st.binary(max_size=600))
def test_arbitrary_bytes_after_the_header_never_become_records(noise: bytes) -> None:
    result = scan(header().encode() + noise)
    assert result.frames == ()
    assert result.torn_bytes == len(noise.rstrip(b"\0"))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(RECORDS, min_size=1, max_size=300), min_size=1, max_size=3), st.integers(0, 1 << 17))
def test_a_scan_that_only_places_batches_finds_the_same_ones(
    groups: list[list[WalRecord]], zeros: int
) -> None:
    data, _ = build(groups, zeros=zeros)
    whole, placed = scan(data), fmt.scan(data, header(), DEK, whole=False)
    assert [(f.offset, f.end, f.chain_after, f.batch.last, f.batch.digest) for f in placed.frames] == [
        (f.offset, f.end, f.chain_after, f.batch.last, f.batch.digest) for f in whole.frames
    ]
    assert all(f.batch.previous == w.batch.previous for f, w in zip(placed.frames, whole.frames, strict=True))
    assert payloads_of(placed) == [b""] * len(groups)
    assert (placed.end, placed.torn_bytes, placed.damage) == (whole.end, whole.torn_bytes, whole.damage)


@pytest.mark.parametrize("count", [1, 23, 24, 255, 256, 65_535, 65_536])
def test_a_batch_is_placed_whatever_its_count_and_only_as_what_it_is(count: int) -> None:
    batch = WalBatch("a", 7, bytes(range(32)), (WalRecord("k", 1, "s", b""),) * count, JOURNAL)
    found = previous_of(batch.encode(), rack="a", journal=JOURNAL, first=7, count=count)
    assert found == bytes(range(32))
    for other in ({"rack": "b"}, {"journal": bytes(16)}, {"first": 8}, {"count": count + 1}):
        said = {"rack": "a", "journal": JOURNAL, "first": 7, "count": count, **other}
        assert previous_of(batch.encode(), **said) is None  # type: ignore[arg-type]
    extended = WalBatch("a", 7, bytes(32), batch.records, JOURNAL, {"More": 1}).encode()
    assert previous_of(extended, rack="a", journal=JOURNAL, first=7, count=count) is None
