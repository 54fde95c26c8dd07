from __future__ import annotations

import io

import pytest

from stagebox.cli.progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Make standard error a terminal; in the test's own time, as pytest takes it away before."""
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    return terminal


def test_a_person_sees_what_is_done_and_then_what_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    with progress("sending", quiet=False, then="compiling") as tell:
        tell(0, 0)
        tell(1, 2)
        assert "compiling" not in terminal.getvalue()
        tell(2, 2)
    assert "sending" in terminal.getvalue()
    assert "compiling" in terminal.getvalue()


def test_a_program_sees_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    with progress("sending", quiet=True) as tell:
        tell(1, 2)
    assert terminal.getvalue() == ""


def test_what_is_no_terminal_gets_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("sending", quiet=False) as tell:
        tell(1, 2)
    assert capsys.readouterr() == ("", "")
