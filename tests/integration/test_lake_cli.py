"""``stagebox lake`` as a person calls it, on a lake in a mixer's data directory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from nacl.signing import SigningKey

from stagebox.records.event import Event
from stagebox.records.walbatch import WalRecord
from stagebox_keys.storage import LAKE_LABEL
from stagebox_mixer.lake.lake import Lake
from stagebox_mixer.lake.state import Position
from stagebox_mixer.lake.storage import LocalStorage
from support.cluster import Cluster
from support.frames import meter_frame
from support.lake import commit
from support.rackside import Journal

DAY_NS = 86_400 * 10**9
FIRST_NS = 20_000 * DAY_NS  # 2024-10-04


class Shell:
    """Runs ``stagebox lake`` on one mixer's directories."""

    def __init__(self, cluster: Cluster, data: Path) -> None:
        self.data = data
        self._flags = ("--dir", str(cluster.mixer_dir), "--data-dir", str(data))

    def __call__(self, command: str, *args: str, code: int = 0) -> str:
        """Return what it printed; its errors if it is to fail."""
        done = subprocess.run(
            [sys.executable, "-m", "stagebox.cli", "lake", command, *args, *self._flags],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "COLUMNS": "160", "HOME": str(self.data)},
            check=False,
        )
        assert done.returncode == code, (done.stdout, done.stderr)
        return done.stdout if code == 0 else done.stderr


@pytest.fixture
async def shell(cluster: Cluster, tmp_path: Path) -> Shell:
    """Return a shell beside a lake of two days: three meter frames and an event, two of the frames sorted."""
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    key = cluster.keys.storage_key(LAKE_LABEL)
    lake = Lake(LocalStorage(data / "lake"), key, cluster=cluster.name, keep_days=0)
    await lake.open()
    journal = Journal("stage-left", SigningKey(bytes(range(32))))
    for number, time_ns in enumerate((FIRST_NS, FIRST_NS + 1, FIRST_NS + DAY_NS), 1):
        frame = meter_frame(number, bytes(16), time_ns=time_ns, start=number * 2400, peak=-10.0 * number)
        meter = WalRecord("meter", time_ns, "rack.stage-left.meter.main", frame.encode())
        event = Event(number, bytes(16), time_ns, "clip", {"channel": number})
        more = (WalRecord("event", time_ns, "rack.stage-left.event", event.encode()),) if number == 3 else ()
        await lake.commit([commit(journal, meter, *more)], position=Position(1, number))
    await lake.close()
    return Shell(cluster, data)


def test_the_lake_is_listed_by_date_rack_and_kind(shell: Shell) -> None:
    lines = json.loads(shell("ls", "--json"))
    assert [(line["date"], line["kind"], line["rows"]) for line in lines] == [
        ("2024-10-04", "meter", 2),
        ("2024-10-05", "event", 1),
        ("2024-10-05", "meter", 1),
    ]
    assert "2024-10-05" not in shell("ls", "--to", "2024-10-04")
    assert "there is nothing of that" in shell("ls", "--rack", "stage-right")


def test_a_question_in_sql_is_answered_in_decibels(shell: Shell) -> None:
    asked = "SELECT date, max(list_max(peak)) AS top FROM meter GROUP BY date ORDER BY date"
    rows = [json.loads(line) for line in shell("query", asked, "--json").splitlines()]
    assert rows == [{"date": "2024-10-04", "top": -10.0}, {"date": "2024-10-05", "top": -30.0}]
    table = shell("query", asked)
    assert "-30.00" in table and "2024-10-05" in table


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("SELECT * FROM metre", "its tables are ack, alert, checkpoint, event, meter"),
        ("SELECT * FROM read_text('/etc/hostname')", "the lake cannot answer that"),
    ],
)
def test_a_question_that_cannot_be_answered_says_what_can(shell: Shell, asked: str, said: str) -> None:
    assert said in " ".join(shell("query", asked, code=65).split())


def test_of_a_kind_that_never_came_there_is_nothing_and_no_error(shell: Shell) -> None:
    assert shell("query", "SELECT time, name FROM alert", "--json") == ""
    assert json.loads(shell("query", "SELECT count(*) AS n FROM event", "--to", "2024-10-04", "--json")) == {
        "n": 0
    }


def test_a_kind_and_an_answer_are_written_to_files_any_tool_reads(shell: Shell, tmp_path: Path) -> None:
    parquet, lines = tmp_path / "meters.parquet", tmp_path / "clips.jsonl"
    assert json.loads(shell("export", "meter", "--out", str(parquet), "--json"))["rows"] == 3
    assert pq.read_table(parquet).column("rack").to_pylist() == ["stage-left"] * 3
    shell("export", "--sql", "SELECT name FROM event", "--out", str(lines))
    assert json.loads(lines.read_text()) == {"name": "clip"}
    assert "is not overwritten" in shell("export", "meter", "--out", str(parquet), code=65)


def test_verify_says_what_it_covered_and_names_what_is_damaged(shell: Shell) -> None:
    report = json.loads(shell("verify", "--json"))
    assert report["verified"] and (report["records"], report["batches"], report["signatures"]) == (4, 3, 3)
    arrivals = list((shell.data / "lake" / "arrivals").iterdir())
    assert (report["files"], report["bytes"]) == (3, sum(path.stat().st_size for path in arrivals))
    path = sorted((shell.data / "lake" / "arrivals").iterdir())[0]
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    said = shell("verify", code=77)
    assert path.name in said and "does not verify" in said


def test_a_wrong_date_or_place_is_one_clear_error(shell: Shell, tmp_path: Path) -> None:
    assert "--from 'yesterday' is no date" in shell("ls", "--from", "yesterday", code=65)
    elsewhere = tmp_path / "elsewhere"
    assert f"there is no lake in {elsewhere}" in shell("ls", "--lake", str(elsewhere), code=74)
