from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import structlog
import typer

from stagebox.cli import host
from stagebox.cli.lazy import LazyGroup, epilog
from stagebox.errors import BusError, PassportError, StageboxError


@pytest.fixture(autouse=True)
def clean_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for variable in list(os.environ):
        if variable.startswith("STAGEBOX_"):
            monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    root = logging.getLogger()
    before = root.handlers[:], root.level, logging.raiseExceptions
    yield
    logging.captureWarnings(False)
    structlog.reset_defaults()
    root.handlers[:], logging.raiseExceptions = before[0], before[2]
    root.setLevel(before[1])


def stagebox(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "stagebox.cli", *args],
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, **environment},
        check=False,
    )


plain = typer.Typer(help="A group of another distribution.")


@plain.callback()
def _plain() -> None:
    pass


@plain.command()
def fail() -> None:
    raise PassportError("the passport\x1b[2J is\nbad", remedy="enroll again")


@plain.command()
def crash() -> None:
    raise RuntimeError("boom\nsecond line")


@plain.command()
def interrupted() -> None:
    raise KeyboardInterrupt


@plain.command()
def grouped() -> None:
    raise BaseExceptionGroup("tasks", [BusError("first"), ValueError("second")])


@plain.command()
def lonely() -> None:
    raise ExceptionGroup("tasks", [ExceptionGroup("inner", [BusError("only")])])


open_group = typer.Typer(cls=LazyGroup, help="A group others add to.")


@open_group.callback()
def _open() -> None:
    pass


@open_group.command()
def own() -> None:
    typer.echo("own")


@epilog("[bold]Examples[/bold]\n\nstagebox open added --times 2")
def added(times: int = 1) -> None:
    """Do it from another distribution."""
    typer.echo("added " * times)


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands of two imaginary distributions, as entry points would offer them."""
    for name in ("plain", "open_group", "added"):
        setattr(sys.modules["json"], f"_stagebox_{name}", globals()[name])
    values = {
        "plain": "json:_stagebox_plain",
        "open": "json:_stagebox_open_group",
        "open.added": "json:_stagebox_added",
        "deep.er.still": "json:_stagebox_added",
        "broken": "stagebox_of_nobody.cli:app",
    }
    points = {name: EntryPoint(name, value, "stagebox.commands") for name, value in values.items()}
    monkeypatch.setattr(host, "commands", lambda: points)


def test_a_stagebox_error_is_two_lines_and_its_own_code(
    offered: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert host.run(["plain", "fail"]) == 78
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "error: the passport\\x1b[2J is\\nbad\n  try: enroll again\n"


def test_an_unexpected_error_is_one_line_and_a_way_to_the_traceback(
    offered: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert host.run(["plain", "crash"]) == 1
    err = capsys.readouterr().err
    assert err.splitlines()[0] == "error: unexpected RuntimeError: boom second line"
    assert "STAGEBOX_DEBUG=1" in err
    assert "Traceback" not in err


def test_debug_shows_the_traceback_and_keeps_the_code(
    offered: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAGEBOX_DEBUG", "1")
    assert host.run(["plain", "fail"]) == 78
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_an_interrupt_is_quiet_and_130(offered: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert host.run(["plain", "interrupted"]) == 130
    assert capsys.readouterr().err == ""


def test_errors_of_a_task_group_are_reported_each(offered: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert host.run(["plain", "grouped"]) == 1
    err = capsys.readouterr().err
    assert "error: first\n" in err
    assert "error: unexpected ValueError: second\n" in err


def test_a_group_of_one_error_is_that_error(offered: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert host.run(["plain", "lonely"]) == BusError.exit_code
    assert capsys.readouterr().err == "error: only\n"


def test_another_distribution_adds_to_a_group(offered: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert host.run(["open", "own"]) == 0
    assert host.run(["open", "added", "--times", "2"]) == 0
    assert capsys.readouterr().out.split() == ["own", "added", "added"]


def test_help_lists_the_added_commands_with_examples(
    offered: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert host.run(["open", "-h"]) == 0
    out = capsys.readouterr().out
    assert "added" in out
    assert "own" in out
    assert host.run(["open", "added", "--help"]) == 0
    out = capsys.readouterr().out
    assert "Do it from another distribution." in out
    assert "stagebox open added --times 2" in out


def test_groups_between_are_made_up(offered: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert host.run(["deep", "er", "still"]) == 0
    assert capsys.readouterr().out == "added \n"


def test_a_distribution_that_cannot_be_imported_is_named(
    offered: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert host.run(["broken"]) == 64
    assert "'stagebox_of_nobody'" in capsys.readouterr().err
    assert host.run(["--help"]) == 0
    assert "broken" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (["plian"], "Did you mean 'plain'"),
        (["open", "aded"], "Did you mean 'added'"),
        (["--nonsense"], "No such option"),
        (["open", "added", "--times", "x"], "'--times'"),
    ],
)
def test_wrong_use_is_code_2_and_says_what_is_near(
    offered: None, capsys: pytest.CaptureFixture[str], args: list[str], complaint: str
) -> None:
    assert host.run(args) == 2
    assert complaint in capsys.readouterr().err


def test_version_names_all_four_distributions(capsys: pytest.CaptureFixture[str]) -> None:
    assert host.run(["--version"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(host.DISTRIBUTIONS)


def test_a_distribution_that_is_not_installed_is_called_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "DISTRIBUTIONS", ("stagebox", "stagebox-nowhere"))
    assert host.run(["--version"]) == 0
    assert "stagebox-nowhere not installed" in capsys.readouterr().out


def test_every_error_class_has_a_code_a_shell_can_tell_apart_from_wrong_use() -> None:
    classes, found = [StageboxError], set[int]()
    while classes:
        cls = classes.pop()
        classes += cls.__subclasses__()
        found.add(cls.exit_code)
    assert not found & {0, 2, 130}
    assert all(0 < code < 128 for code in found)


def test_config_show_names_the_origin_of_every_value(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "stagebox.toml").write_text('[client]\nmixer = "https://m:8443"\n')
    assert host.run(["config", "show", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["client"]["mixer"] == {"value": "https://m:8443", "origin": "file stagebox.toml"}
    assert shown["client"]["servers"]["origin"] == "default"
    assert "log" in shown


def test_config_show_masks_secrets(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAGEBOX_KEYS_PASSPHRASE", "correct-horse")
    for args in (["config", "show"], ["config", "show", "--json"]):
        assert host.run(args) == 0
        out = capsys.readouterr().out
        assert "correct-horse" not in out
        assert "env STAGEBOX_KEYS_PASSPHRASE" in out


def test_config_show_prints_toml_that_reads_back(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert host.run(["config", "show"]) == 0
    (tmp_path / "copy.toml").write_text(capsys.readouterr().out)
    assert host.run(["--config", "copy.toml", "config", "show", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["client"]["servers"] == {"value": ["wss://localhost:4222"], "origin": "file copy.toml"}


def test_the_config_option_works_before_and_after_the_command(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "f.toml").write_text('[log]\nlevel = "debug"\n')
    for args in (["--config", "f.toml", "config", "show"], ["config", "show", "--config", "f.toml"]):
        assert host.run(args) == 0
        assert "file f.toml" in capsys.readouterr().out


def test_listing_commands_imports_none_of_them() -> None:
    probe = (
        "import sys; from stagebox.cli.host import run; code = run(['--help']);"
        "print([m for m in sys.modules if m.startswith(('stagebox_', 'stagebox.bus', 'pydantic', 'httpx', 'nats'))]);"
        "sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_process_offers_only_aes_256() -> None:
    probe = (
        "import sys; sys.argv = ['stagebox', '--version']\n"
        "from stagebox.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "from stagebox.tls import offers_only_aes256; print(offers_only_aes256())"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OPENSSL_CONF"}
    done = subprocess.run(
        [sys.executable, "-c", probe],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env=environment,
    )
    assert done.stdout.splitlines()[-1] == "True", done.stderr


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = f"{sys.executable} -m stagebox.cli config show --json | true"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=30, check=False)
    assert done.stderr == ""


def test_shell_completion_knows_the_commands() -> None:
    done = stagebox(_STAGEBOX_COMPLETE="complete_bash", COMP_WORDS="stagebox pass", COMP_CWORD="1")
    assert done.stdout.split() == ["passport"]
    done = stagebox(_STAGEBOX_COMPLETE="complete_bash", COMP_WORDS="stagebox admin racks ap", COMP_CWORD="3")
    assert done.stdout.split() == ["approve"]


def test_ctrl_c_ends_a_real_process_with_130_and_no_noise(tmp_path: Path) -> None:
    script = (
        "import sys, typer, time, json\n"
        "from importlib.metadata import EntryPoint\n"
        "from stagebox.cli import host\n"
        "def wait():\n"
        "    print('waiting', flush=True)\n"
        "    time.sleep(30)\n"
        "json._wait = wait\n"
        "host.commands = lambda: {'wait': EntryPoint('wait', 'json:_wait', 'stagebox.commands')}\n"
        "sys.exit(host.run(['wait']))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, "")
