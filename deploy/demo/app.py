"""The demo's command line and composition root: options in, exit code out, nothing left behind.

Exit codes: 0 nothing was lost and everything verified, 1 something was lost, did not verify or did not run, 2 wrong
use, 130 interrupted before the racks were up.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from demo.account import Account
from demo.errors import DemoError
from demo.limits import LIMITS
from demo.processes import tail
from demo.screen import Screen
from demo.session import Options, Session, Stopping
from demo.sources import Wanted
from demo.summary import words
from stagebox import logs
from stagebox.errors import StageboxError

INTERRUPTED = 130

_EPILOG = """\
what is measured:
  published                 the racks' own counters, from their signed final status
  received, verified        counted by this program, a subscriber with a viewer certificate
  wal.records, segments     read back by `stagebox rack wal verify` after the racks stopped
  wal.committed             the mixer's lake, asked over its API
  wal.lost                  holes in journal or lake, plus what the racks say they could not journal
  by_rack.*.not_sent        live records made before the rack was connected: never published, still journalled
  startup_ms                spawn of the mixer process to its ready line
  enroll_to_first_frame_ms  spawn of `admin enroll` to the first meter frame of that rack received here,
                            the rack process waiting for its enrollment; the slowest rack counts

examples:
  just demo
  just demo --seconds 10 --json
"""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line; wrong use ends the program with code 2."""
    parser = argparse.ArgumentParser(
        prog="just demo",
        description="A throw-away cluster on this machine: a mixer and two racks, their meters, and proof that "
        "nothing was lost.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--seconds", type=_seconds, metavar="N", help="end by itself N seconds after both racks are heard"
    )
    parser.add_argument(
        "--json", action="store_true", help="progress to standard error, one JSON object to standard output"
    )
    parser.add_argument(
        "--source",
        type=Wanted,
        choices=list(Wanted),
        default=Wanted.AUTO,
        help="what the racks capture: the default device if there is one (auto), only that (device), or the "
        "programme this project renders (programme)",
    )
    parser.add_argument("--keep", action="store_true", help="keep the directory with keys, journals and logs")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Run the demo and return its exit code."""
    options = parse(arguments)
    screen = Screen(unattended=options.json)
    directory = Path(tempfile.mkdtemp(prefix="stagebox-demo-"))
    keep = True
    try:
        # The SDK's log would tear the bridge; what it warns of is counted and shown.
        with (directory / "demo.log").open("w", encoding="utf-8") as log:
            logs.setup("info", "json", log)
            account = asyncio.run(_run(Options(options.seconds, options.source), directory, screen))
        code = _report(account, screen, as_json=options.json)
        keep = options.keep or code != 0
    except asyncio.CancelledError:
        _complain("interrupted before both racks were up")
        code, keep = INTERRUPTED, options.keep
    except (StageboxError, ExceptionGroup, OSError) as error:
        _explain(error)
        code = 1
    finally:
        if keep:
            _complain(f"keys, journals and logs of this run are kept in {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)
    return code


async def _run(options: Options, directory: Path, screen: Screen) -> Account:
    loop, stopping = asyncio.get_running_loop(), Stopping()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stopping.ask)
    stopping.session = asyncio.create_task(Session(options, directory, screen, stopping).run())
    return await stopping.session


def _report(account: Account, screen: Screen, *, as_json: bool) -> int:
    failures = account.failures()
    for line in words(account):
        screen.say(line)
    for failure in failures:
        _complain(f"failed: {failure}")
    if as_json:
        sys.stdout.write(json.dumps(account.to_json(), separators=(",", ":")) + "\n")
        sys.stdout.flush()
    return 1 if failures else 0


def _explain(error: BaseException) -> None:
    """Say what went wrong, what to do about it, and show the log that tells more."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    _complain(f"error: {error.message if isinstance(error, StageboxError) else error}")
    if isinstance(error, StageboxError) and error.remedy:
        _complain(f"  try: {error.remedy}")
    if isinstance(error, DemoError) and error.log is not None:
        lines = tail(error.log)
        _complain(f"  the last {len(lines)} lines of {error.log.name}:" if lines else "  it logged nothing")
        for line in lines:
            _complain(f"    {line}")


def _complain(line: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= LIMITS.max_seconds:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number of seconds between 0 and {LIMITS.max_seconds:.0f}"
        )
    return value
