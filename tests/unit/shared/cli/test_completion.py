"""What a shell is offered, asked as a shell asks: words of the command line in, candidates out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import get_args

import pytest

from stagebox.cli import host
from stagebox.cli.meters import ScaleName
from stagebox.cli.tail import OnBad
from stagebox.cli.wasm.scaffold import Starter
from stagebox.config.log import Format, Level
from stagebox.identity import Role
from stagebox.modules.capabilities import Capability
from stagebox.modules.manifest import Language
from stagebox.modules.patch import Point
from stagebox.modules.statement import ModuleLimits
from stagebox_mixer.api.racks import STATUSES
from stagebox_mixer.lake.export import ExportFormat as LakeFormat
from stagebox_rack.wal.export import ExportFormat as JournalFormat

Capture = pytest.CaptureFixture[str]


class Offered:
    """Candidates for the last word of a command line, which may be empty."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, line: str) -> list[str]:
        self._monkeypatch.setenv("_STAGEBOX_COMPLETE", "complete_bash")
        self._monkeypatch.setenv("COMP_WORDS", line)
        self._monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
        assert host.run([]) == 0
        return self._capsys.readouterr().out.split()


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> Offered:
    return Offered(monkeypatch, capsys)


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("wasm assign gain@1.0.0 --point", Point),
        ("wasm import gain.wasm --grant", Capability),
        ("wasm sign gain.wasm --capability", Capability),
        ("wasm new gain --lang", Language),
        ("wasm new gain --kind", Starter),
        ("wasm import gain.wasm --limit", [f"{limit.name}=" for limit in fields(ModuleLimits)]),
        ("keys gen-vendor --capability", Capability),
        ("keys gen-client --role", Role),
        ("admin racks list --status", STATUSES),
        ("audit list --result", ["ok", "refused", "failed"]),
        ("tail --on-bad", OnBad),
        ("meters --scale", ScaleName),
        ("lake export --format", LakeFormat),
        ("rack wal export --format", JournalFormat),
        ("--log-level", get_args(Level)),
        ("--log-format", get_args(Format)),
        ("rack run --log-level", get_args(Level)),
        ("mixer run --log-format", get_args(Format)),
    ],
)
def test_an_option_with_a_closed_set_of_values_offers_them(
    offered: Offered, line: str, values: Iterable[str]
) -> None:
    assert sorted(offered(f"stagebox {line} ")) == sorted(str(value) for value in values)


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("wasm assign gain@1.0.0 --point m", ["meters", "monitor"]),
        ("wasm import gain.wasm --grant audio --grant e", ["emit"]),
        ("wasm import gain.wasm --limit m", ["memory_bytes="]),
        ("wasm assign gain@1.0.0 --point x", []),
    ],
)
def test_what_was_typed_narrows_what_is_offered(offered: Offered, line: str, values: list[str]) -> None:
    assert offered(f"stagebox {line}") == values
