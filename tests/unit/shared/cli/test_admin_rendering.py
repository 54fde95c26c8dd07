"""The mixer's answers as an operator reads them."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import typer

from stagebox.cli.admin import bans, calls
from stagebox.cli.admin.heartbeat import heartbeat_lines
from stagebox.cli.admin.rendering import field_lines, rack_lines, rack_notes, table_lines, utc
from stagebox.errors import InputError

DAY = 1_800_000_000_000_000_000
FINGERPRINT = "sha256:" + "ab" * 32


def test_times_are_utc_and_old_names_do_not_show_twice() -> None:
    lines = field_lines(
        {"v": 1, "name": "a", "enrolled_at": DAY, "enrolled_at_ns": DAY, "removed_at_ns": None}
    )
    assert lines == ["name         a", "enrolled_at  2027-01-15T08:00:00+00:00", "removed_at   –"]


def test_a_mixer_of_the_first_release_is_read_too() -> None:
    assert field_lines({"certificate_not_after": DAY}) == ["certificate_not_after  2027-01-15T08:00:00+00:00"]


def test_a_time_beyond_the_calendar_is_shown_as_it_came() -> None:
    assert utc(1 << 63) == "2262-04-11T23:47:16+00:00"
    assert utc(1 << 90) == f"{1 << 90} ns since 1970"
    assert utc("soon") == "soon"


def test_what_is_inside_another_field_is_shown_under_both_names() -> None:
    lines = field_lines({"pending": {"serial": 4, "issued_at_ns": DAY}, "denied": None, "connected": True})
    assert lines == [
        "pending.serial     4",
        "pending.issued_at  2027-01-15T08:00:00+00:00",
        "denied             –",
        "connected          yes",
    ]


def test_journals_stand_below_their_rack() -> None:
    assert rack_lines({"name": "a", "wal": [{"journal": "ab", "last": 7}]}) == [
        "name  a",
        "wal.journal  ab",
        "wal.last     7",
    ]


def test_modules_stand_in_a_heartbeat_with_what_became_of_them() -> None:
    running = {
        "insert": "eq", "module": "para-eq", "version": "1.0.0", "digest": "ab" * 32, "point": "meters",
        "source": "main", "state": "running", "code": "", "faults": 0, "over_budget": 3, "bypassed": 12,
    }  # fmt: skip
    stopped = {**running, "insert": "spl", "module": "spl", "state": "stopped", "code": "three_strikes"}
    lines = heartbeat_lines({"state": "running", "modules": [running, stopped, "odd"], "modules_omitted": 5})
    table = [" ".join(line.split()) for line in lines[lines.index("modules") + 1 :]]
    assert table == [
        "INSERT MODULE VERSION POINT SOURCE STATE FAULTS OVER BUDGET BYPASSED CODE",
        "eq para-eq 1.0.0 meters main running 0 3 12",
        "spl spl 1.0.0 meters main stopped 0 3 12 three_strikes",
        "and 5 more, for which the heartbeat had no room",
    ]


@pytest.mark.parametrize("heartbeat", [{}, {"modules": []}, {"modules": 7, "modules_omitted": "many"}])
def test_a_rack_without_modules_or_of_an_earlier_release_shows_none(heartbeat: dict[str, object]) -> None:
    assert not [line for line in heartbeat_lines(heartbeat) if "modules" in line or "more" in line]


def test_a_note_says_what_the_status_does_not() -> None:
    assert rack_notes({"status": "active", "denied": None, "problem": "", "pending": None}) == ""
    rack = {
        "denied": {"kind": "machine", "reason": "stolen"},
        "problem": "grace_ended",
        "pending": {"serial": 9},
    }
    assert rack_notes(rack) == "denied: stolen; renewal fails: grace_ended; issue 9 not taken yet"
    assert rack_notes({"denied": {"kind": "machine", "reason": ""}}) == "denied: machine"


def test_columns_are_as_wide_as_they_must_be() -> None:
    assert table_lines(("A", "LONG"), [("xyz", "1"), ("", "")]) == ["A    LONG", "xyz  1", ""]


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (("stage-left", None, None), ("rack", "stage-left")),
        ((None, "2a", None), ("machine", "000000000000002a")),
        ((None, "0xDEADBEEF", None), ("machine", "00000000deadbeef")),
        ((None, None, FINGERPRINT.upper()), ("certificate", FINGERPRINT)),
    ],
)
def test_one_thing_is_named_and_spelt_as_the_mixer_does(
    given: tuple[str | None, str | None, str | None], meant: tuple[str, str]
) -> None:
    assert bans.banned(*given) == meant


@pytest.mark.parametrize(
    "given",
    [
        (None, None, None),
        ("stage-left", "2a", None),
        ("Stage Left", None, None),
        (None, "0", None),
        (None, "1" * 17, None),
        (None, None, "sha256:ab"),
    ],
)
def test_nothing_or_two_things_or_nonsense_is_not_banned(
    given: tuple[str | None, str | None, str | None],
) -> None:
    with pytest.raises(InputError):
        bans.banned(*given)


def test_a_ban_that_hits_nobody_says_so() -> None:
    answer: dict[str, object] = {"kind": "rack", "value": "stage-lfet", "epoch": 4, "kicked": 0, "racks": []}
    assert bans.deny_lines(answer) == [
        "denied: rack stage-lfet (deny list 4)",
        "0 connections dropped",
        "no registered rack is hit by it: check what you named",
    ]


def test_a_ban_whose_connections_could_not_be_dropped_yet_says_so() -> None:
    lines = bans.deny_lines(
        {"kind": "rack", "value": "a", "epoch": 4, "kicked": None, "problem": "no server"}
    )
    assert lines[1] == "its connections could not be dropped yet, the mixer goes on trying: no server"


class Terminal(io.StringIO):
    """A terminal at which something was typed."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("typed", ["", "\n", "n\n", "yesterday\n"])
def test_no_is_the_answer_unless_yes_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], typed: str
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal(typed))
    with pytest.raises(typer.Exit) as stopped:
        calls.confirm("Remove rack a?", yes=False)
    assert stopped.value.exit_code == 1
    assert "nothing was changed" in capsys.readouterr().err


def test_yes_goes_on_and_the_question_does_not_mix_with_the_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    calls.confirm("Remove rack a?", yes=False)
    calls.confirm("never asked", yes=True)
    output = capsys.readouterr()
    assert output.out == ""
    assert "Remove rack a? [y/N]" in output.err


def test_a_script_must_say_yes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with (tmp_path / "empty").open() as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        with pytest.raises(InputError, match="no terminal"):
            calls.confirm("Remove rack a?", yes=False)
        calls.confirm("Remove rack a?", yes=True)
