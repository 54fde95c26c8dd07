"""A rack renewed from beside it and rekeyed while it captures, with a real mixer and a real rack."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
from pathlib import Path

from stagebox_rack import state
from stagebox_rack.identity.succession import earlier_keys
from stagebox_rack.state import RackIdentity, StatePaths
from stagebox_rack.wal.inspect import verify
from stagebox_rack.wal.reader import JournalReader
from support.cluster import MACHINE, RunningMixer
from support.racks import running_rack

RACK = "stage-left"


def held(directory: Path) -> RackIdentity:
    return state.load(StatePaths(directory), machine_id=MACHINE)


async def renew(directory: Path, *options: str) -> dict[str, object]:
    """Run ``stagebox rack renew`` as the timer does."""
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("STAGEBOX_")},
        "STAGEBOX_RACK_MACHINE_ID": str(MACHINE),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "stagebox.cli", "rack", "renew", "--state-dir", str(directory), "--json", *options,
        env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    found: dict[str, object] = json.loads(out)
    return found


async def test_the_timers_command_renews_beside_a_running_rack_which_proves_and_promotes_it(
    mixer: RunningMixer, tmp_path: Path
) -> None:
    directory = tmp_path / "rack"
    before = await mixer.enroll(directory, RACK)
    async with running_rack(directory):
        assert (await renew(directory))["renewed"] is False
        outcome = await renew(directory, "--force")
        assert (outcome["renewed"], outcome["serial"]) == (True, 2)
        await mixer.wait_audit(action="confirm", subject=RACK)
        async with asyncio.timeout(10):
            while held(directory).passport.serial != 2:  # noqa: ASYNC110 - a file appears
                await asyncio.sleep(0.02)
    after = held(directory)
    assert after.public == before.public
    assert after.chain[0] != before.chain[0]
    assert not list((directory / "next").iterdir())


async def test_a_rack_rekeyed_while_it_captures_loses_no_record_and_its_whole_journal_proves_itself(
    mixer: RunningMixer, tmp_path: Path
) -> None:
    directory = tmp_path / "rack"
    first = await mixer.enroll(directory, RACK)
    async with running_rack(directory) as rack:
        outcome = await renew(directory, "--force", "--rekey")
        rack.look_for_identity()
        await mixer.wait_audit(action="confirm", subject=RACK)
        async with asyncio.timeout(10):
            while held(directory).passport.serial != outcome["serial"]:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        await asyncio.sleep(1.0)  # some more to journal and ship under the new key
    second = held(directory)
    assert second.public != first.public
    paths = StatePaths(directory)
    earlier = earlier_keys(paths, RACK, second.public)
    assert earlier == (first.public,)
    report = verify(paths.wal, second.public, earlier=earlier)
    assert report.records > 40
    starts = meter_starts(paths, second.public, earlier)
    assert all(b - a == 2400 for a, b in itertools.pairwise(starts)), "no gap in capture"
    async with running_rack(directory) as again:
        assert again.mode == "running"
    async with asyncio.timeout(20):
        while (await mixer.registry.racks.get(RACK)).entry.rack_public != second.public:  # type: ignore[union-attr]  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def meter_starts(paths: StatePaths, public: bytes, earlier: tuple[bytes, ...]) -> list[int]:
    """Return the first sample index of every journalled meter frame."""
    from stagebox.records.meter import MeterFrame

    return [
        MeterFrame.decode(record.data).start
        for content in JournalReader(paths.wal, public, earlier).files()
        for batch in content.batches
        for record in batch.decode().records
        if record.kind == "meter"
    ]
