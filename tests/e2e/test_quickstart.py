"""The quickstart guide, run as written. Only the ports differ, through their documented settings."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.guide import Adapted, GuideRunner, missing_line, parse
from support.ports import free_port

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "quickstart.md"


@pytest.fixture
def adapted() -> Adapted:
    return Adapted(free_port(), free_port())


@pytest.fixture
def runner(tmp_path: Path, adapted: Adapted) -> Iterator[GuideRunner]:
    https, snake = adapted("port 8443").split()[1], adapted("port 4222").split()[1]
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "TERM": "dumb",
        "COLUMNS": "200",
        "STAGEBOX_MIXER_HTTPS_HOST": "127.0.0.1",
        "STAGEBOX_MIXER_SNAKE_HOST": "127.0.0.1",
        "STAGEBOX_MIXER_HTTPS_PORT": https,
        "STAGEBOX_MIXER_SNAKE_PORT": snake,
        "STAGEBOX_CLIENT_MIXER": f"https://localhost:{https}",
        "STAGEBOX_CLIENT_SERVERS": f"wss://localhost:{snake}",
    }
    directory = tmp_path / "play"
    directory.mkdir()
    made = GuideRunner(directory, environment, adapted)
    yield made
    made.end()


def test_every_command_of_the_quickstart_prints_what_the_guide_says(
    runner: GuideRunner, adapted: Adapted
) -> None:
    steps = parse(GUIDE.read_text())
    assert sum(step.verb == "run" for step in steps) >= 20
    for step in steps:
        runner.run(step)
        adapted.learn(runner.printed)
        if step.options.get("types"):
            assert step.options["types"] not in runner.printed, "a typed passphrase must not be echoed"


def test_the_commands_of_the_quickstart_are_those_of_the_project() -> None:
    text = GUIDE.read_text()
    for command in (
        "stagebox keys gen-cluster --dir cluster --name flux-prod",
        "stagebox keys gen-client --dir cluster --role admin --name ops --out ops",
        "stagebox mixer run --dir cluster/mixer",
        "stagebox admin token create --rack stage-left",
        "stagebox admin enroll --mixer https://localhost:8443 --token sbt-… --ca-pin sha256:… --state-dir",
        "stagebox rack run --state-dir rack-state --source device:default",
        "stagebox tail 'rack.*.meter.>' --verify",
        "stagebox passport inspect rack-state/state.flux --pin cluster/cluster.pub",
        "stagebox rack wal ls",
        "stagebox rack wal verify",
        "stagebox rack wal export",
        "stagebox config show",
    ):
        assert command in text


def test_a_line_that_is_not_printed_in_its_place_is_missed() -> None:
    printed = "alpha 1\nnoise\nbeta  2\n"
    assert missing_line(["alpha …", "beta 2"], printed) is None
    assert missing_line(["beta 2", "alpha …"], printed) == "alpha …"
    assert missing_line(["alpha 2"], printed) == "alpha 2"
    assert missing_line(["lph…"], printed) == "lph…"


def test_a_command_nobody_decided_about_is_refused() -> None:
    with pytest.raises(AssertionError, match="line 1"):
        parse("```sh\nrm -rf everything\n```\n")


@pytest.mark.parametrize(
    ("directive", "command", "complaint"),
    [("<!-- run -->", "exit 3", "exit code 3"), ("<!-- run: exit=3 -->", "true", "exit code 0"),
     ("<!-- run -->", "echo other", "this line was not printed")],
)  # fmt: skip
def test_a_guide_that_is_wrong_fails(
    runner: GuideRunner, directive: str, command: str, complaint: str
) -> None:
    (step,) = parse(f"{directive}\n```sh\n{command}\n```\n```text\nexpected\n```\n")
    with pytest.raises(AssertionError, match=complaint):
        runner.run(step)


def test_exports_carry_over_from_step_to_step(runner: GuideRunner) -> None:
    first, second = parse(
        "<!-- run -->\n```sh\nexport WORD=kept\n```\n<!-- run -->\n```sh\necho $WORD\n```\n```text\nkept\n```\n"
    )
    runner.run(first)
    runner.run(second)


def _block(language: str, command: str) -> str:
    return f"<!-- run -->\n```{language}\n{command}\n```\n"


def test_functions_and_what_python_defines_carry_over_and_print_once(runner: GuideRunner) -> None:
    blocks = [("sh", 'say() { echo "said $1"; }'), ("sh", "say it"), ("python", "n = 2; print('first')")]
    said = []
    for step in parse("".join(_block(*block) for block in [*blocks, ("python", "print(n * 21)")])):
        runner.run(step)
        said.append(runner.printed)
    assert said == ["", "said it\n", "first\n", "42\n"]
    (wrong,) = parse(_block("python", "raise SystemExit(3)"))
    with pytest.raises(AssertionError, match="exit code 3"):
        runner.run(wrong)
