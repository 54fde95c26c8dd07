from __future__ import annotations

import pytest

from demo import app
from demo.sources import Wanted


def test_without_options_it_runs_until_it_is_interrupted() -> None:
    options = app.parse([])
    assert (options.seconds, options.json, options.source) == (None, False, Wanted.AUTO)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--seconds", "0"], "'0' is not a number of seconds"),
        (["--seconds", "-3"], "'-3' is not a number of seconds"),
        (["--seconds", "nan"], "'nan' is not a number of seconds"),
        (["--seconds", "ten"], "'ten' is not a number of seconds"),
        (["--seconds"], "expected one argument"),
        (["--sec", "3"], "unrecognized arguments"),
        (["--source", "tape"], "tape"),
        (["extra"], "unrecognized arguments: extra"),
    ],
)
def test_wrong_use_is_code_2_and_says_what(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        app.main(arguments)
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


def test_help_says_what_each_figure_measures(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        app.parse(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for figure in ("published", "wal.committed", "startup_ms", "enroll_to_first_frame_ms"):
        assert figure in text
