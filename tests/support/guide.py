"""Runs a guide: the fenced commands of a Markdown file, in order, and compares what they print.

A block of ``sh`` or ``python`` must stand below one of these comments, so that no command of a guide is untested
unnoticed::

    <!-- run -->                                     must exit 0
    <!-- run: exit=66 -->                            must exit so
    <!-- run: within=30 -->                          again until it prints so, for that many seconds at most
    <!-- run: types="…" -->                          on a terminal of its own, typing this at each prompt
    <!-- run: background=mixer until="ready" -->     stays; the text must appear on standard output
    <!-- stop: mixer -->                             Ctrl-C for a background command, which must exit 0
    <!-- not run: reason -->

A block of ``text`` after a command holds lines it must print, in this order, others between them allowed;
``…`` stands for anything. Functions and exported variables carry over from block to block, as in one shell; of Python
all that a block defines does, as in a notebook.
"""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

_DIRECTIVE = re.compile(r"<!-- (run|stop|not run)(?:: (.*?))? -->")
_DEADLINE_S = 120.0


@dataclass
class Step:
    """One directive with the command below it and the lines it must print."""

    line: int
    verb: str
    argument: str
    language: str = "sh"
    command: str = ""
    expected: list[str] = field(default_factory=list)

    @property
    def options(self) -> dict[str, str]:
        return dict(word.split("=", 1) for word in shlex.split(self.argument)) if self.verb == "run" else {}


def parse(markdown: str) -> list[Step]:
    """Return the steps of a guide; a command without a directive is an error."""
    steps: list[Step] = []
    pending: Step | None = None
    language = ""
    for number, line in enumerate(markdown.splitlines(), 1):
        if language and line == "```":
            language = ""
        elif language in ("sh", "python") and pending is not None:
            pending.command += line + "\n"
        elif language == "text" and steps:
            steps[-1].expected.append(line)
        elif line.startswith("```"):
            language = line[3:]
            if language in ("sh", "python"):
                assert pending is not None, f"line {number}: say <!-- run --> or <!-- not run: why --> above"
                assert not pending.command, f"line {number}: one directive a command"
                pending.language = language
        elif found := _DIRECTIVE.fullmatch(line):
            pending = Step(number, found[1], found[2] or "")
            steps.append(pending)
        elif line.strip():
            pending = None
    return steps


def missing_line(expected: list[str], printed: str) -> str | None:
    """Return the first expected line that does not appear after those before it."""
    lines = iter(printed.replace("\r", "").splitlines())
    for wanted in expected:
        if not wanted.strip():
            continue
        pattern = re.compile(
            re.sub("[ ]+", " +", ".*".join(map(re.escape, wanted.split("…"))).replace(r"\ ", " "))
        )
        if not any(pattern.fullmatch(line.rstrip()) for line in lines):
            return wanted
    return None


class GuideRunner:
    """Runs steps in ``directory``. ``adapt`` turns a line of the guide into what is run or expected here."""

    def __init__(self, directory: Path, environment: Mapping[str, str], adapt: Callable[[str], str]) -> None:
        self._directory = directory
        self._environment = dict(environment)
        self._adapt = adapt
        self._exports = directory / ".exports"
        self._cells: dict[int, str] = {}
        self._background: dict[str, subprocess.Popen[str]] = {}
        self.printed = ""

    def run(self, step: Step) -> None:
        """Run one step; AssertionError says what was different, with all that was printed."""
        if step.verb == "not run":
            return
        if step.verb == "stop":
            self._stop(step.argument)
            return
        deadline = time.monotonic() + float(step.options.get("within", "0"))
        while (wrong := self._try(step)) is not None:
            assert time.monotonic() < deadline, (
                f"{wrong}; line {step.line}: {step.command.strip()}\nprinted:\n{self.printed}"
            )

    def _try(self, step: Step) -> str | None:
        """Run a command; return what was different, None if nothing was."""
        options = step.options
        if "background" in options:
            self.printed = self._start(options["background"], step, self._adapt(options["until"]))
            code, wanted = 0, 0
        else:
            code, self.printed = self._finish(step, options.get("types"))
            wanted = int(options.get("exit", "0"))
        if code != wanted:
            return f"exit code {code}, not {wanted}"
        missing = missing_line([self._adapt(line) for line in step.expected], self.printed)
        return None if missing is None else f"this line was not printed: {missing!r}"

    def end(self) -> None:
        """Kill what still runs."""
        for process in self._background.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
            assert process.stdout is not None
            process.stdout.close()
        self._background.clear()

    def _script(self, command: str, *, keep: bool) -> str:
        before = f"[ ! -e {self._exports} ] || . {self._exports}\nset -e\n"
        after = f"trap '{{ export -p; declare -f; }} > {self._exports}' EXIT\n" if keep else ""
        return before + after + self._adapt(command)

    def _cell(self, step: Step) -> str:
        """Return the command that runs a block of Python after those before it, which print nothing again."""
        cell = self._adapt(step.command)
        quiet = ["import contextlib, io", "with contextlib.redirect_stdout(io.StringIO()):", "    pass"]
        quiet += [f"    exec({before!r})" for line, before in self._cells.items() if line != step.line]
        (self._directory / ".cell.py").write_text("\n".join(quiet) + "\n" + cell)
        self._cells[step.line] = cell
        return "python .cell.py\n"

    def _finish(self, step: Step, types: str | None) -> tuple[int, str]:
        script = self._directory / ".step.sh"
        command_text = self._cell(step) if step.language == "python" else step.command
        script.write_text(self._script(command_text, keep=True))
        command = ["bash", str(script)]
        if types is not None:
            command = ["script", "-qec", shlex.join(command), "/dev/null"]
        with subprocess.Popen(
            command, cwd=self._directory, env=self._environment, text=True, start_new_session=True,
            stdin=subprocess.DEVNULL if types is None else subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        ) as process:  # fmt: skip
            try:
                printed = self._read(process, types)
                return process.wait(_DEADLINE_S), printed
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)

    def _read(self, process: subprocess.Popen[str], types: str | None) -> str:
        printed, answered = "", 0
        for chunk in _chunks(process.stdout, process):
            printed += chunk
            # Not before the prompt: asking switches the echo off and discards what was typed ahead.
            while types is not None and len(re.findall(r"(?:assphrase[^\n]*|again): ", printed)) > answered:
                answered += 1
                assert process.stdin is not None
                process.stdin.write(types + "\n")
                process.stdin.flush()
        return printed

    def _start(self, name: str, step: Step, until: str) -> str:
        log = (self._directory / f".{name}.log").open("w")
        with log:
            process = subprocess.Popen(
                ["bash", "-c", self._script("exec " + step.command, keep=False)], cwd=self._directory,
                env=self._environment, text=True, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
            )  # fmt: skip
        self._background[name] = process
        printed = ""
        for chunk in _chunks(process.stdout, process):
            printed += chunk
            if until in printed and printed.endswith("\n"):
                return printed
        raise AssertionError(
            f"{name} ended without {until!r}:\n{(self._directory / f'.{name}.log').read_text()}"
        )

    def _stop(self, name: str) -> None:
        process = self._background.pop(name)
        process.send_signal(signal.SIGINT)
        try:
            code = process.wait(_DEADLINE_S)
        finally:
            assert process.stdout is not None
            process.stdout.close()
        assert code == 0, f"{name} exits {code}:\n{(self._directory / f'.{name}.log').read_text()}"


def _chunks(stream: IO[str] | None, process: subprocess.Popen[str]) -> Iterator[str]:
    assert stream is not None
    deadline = time.monotonic() + _DEADLINE_S
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while True:
            assert selector.select(deadline - time.monotonic()), f"nothing from {process.args!r} in time"
            chunk = os.read(stream.fileno(), 65536)
            if not chunk:
                return
            yield chunk.decode("utf-8", "replace")


class Adapted:
    """The guide's placeholders: the default ports, and the token and pin that a reader copies."""

    def __init__(self, https: int, snake: int) -> None:
        self._ports = {"8443": str(https), "4222": str(snake)}
        self.token = "sbt-…"
        self.pin = "sha256:…"

    def __call__(self, text: str) -> str:
        """Return a line of the guide as it is run or expected here."""
        for documented, here in self._ports.items():
            text = re.sub(rf"(localhost:|port ){documented}\b", rf"\g<1>{here}", text)
        return re.sub(r"--token sbt-…", f"--token {self.token}", text).replace(
            "--ca-pin sha256:…", f"--ca-pin {self.pin}"
        )

    def learn(self, printed: str) -> None:
        """Take token and pin out of what a command printed."""
        token = re.search(r"^token +(sbt-\S+)$", printed, re.MULTILINE)
        pin = re.search(r"^CA pin +(sha256:[0-9a-f]{64})$", printed, re.MULTILINE)
        self.token = token[1] if token else self.token
        self.pin = pin[1] if pin else self.pin
