"""A journal goes on under a new identity key, and what the old one sealed stays this rack's own."""

from __future__ import annotations

from pathlib import Path

import pytest
from nacl.signing import SigningKey

from stagebox import envelope
from stagebox.errors import VerificationError
from stagebox_rack.wal.inspect import JournalDamageError, verify
from support.journal import Bench, record

NEW = SigningKey(bytes([7]) * 32)


async def fill(bench: Bench, rekey: SigningKey | None, **more: object) -> None:
    wal = await bench.open(**more)  # type: ignore[arg-type]
    try:
        for number in range(20):
            item = record(number)
            last = wal.append(item.kind, item.time_ns, item.subject, item.data)
        await last
        await wal.seal_now()
        if rekey is not None:
            await wal.rekey(rekey)
            bench.key = rekey
            for number in range(20, 40):
                item = record(number)
                last = wal.append(item.kind, item.time_ns, item.subject, item.data)
            await last
            await wal.seal_now()
        assert len([batch async for batch in wal.batches_after(0)]) >= 1
    finally:
        await wal.close()


async def test_a_rekey_in_the_middle_loses_no_record_and_both_keys_verify(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "wal")
    old = bench.public
    await fill(bench, NEW)
    report = verify(bench.directory, bench.public, earlier=(old,))
    assert (report.records, report.first, report.last) == (40, 1, 40)
    with pytest.raises(JournalDamageError):
        verify(bench.directory, bench.public)


async def test_a_rekeyed_journal_opens_again_only_with_the_proof_of_its_earlier_key(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "wal")
    old = bench.public
    await fill(bench, NEW)
    with pytest.raises(VerificationError, match="another identity key"):
        await bench.open()
    await fill(bench, None, earlier=(old,))
    assert verify(bench.directory, bench.public, earlier=(old,)).records == 60


def test_an_envelope_of_any_named_key_opens_and_of_no_other() -> None:
    keys = [SigningKey(bytes([number]) * 32) for number in range(3)]
    publics = [bytes(key.verify_key) for key in keys]
    for key in keys:
        assert (
            envelope.open_by_any(
                envelope.DOMAIN_SEAL, envelope.seal(envelope.DOMAIN_SEAL, b"x", key), publics
            )
            == b"x"
        )
    for stranger in (
        envelope.seal(envelope.DOMAIN_SEAL, b"x", NEW),
        envelope.seal(envelope.DOMAIN_WAL, b"x", keys[0]),
    ):
        with pytest.raises(VerificationError):
            envelope.open_by_any(envelope.DOMAIN_SEAL, stranger, publics)
    with pytest.raises(ValueError, match="at least one"):
        envelope.open_by_any(envelope.DOMAIN_SEAL, envelope.seal(envelope.DOMAIN_SEAL, b"x", NEW), [])
