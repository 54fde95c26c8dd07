"""``python -m bench [SUITE ...] [--json] [--markdown FILE]``: run suites and print a table."""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import os
import platform
import sys
from collections.abc import Callable, Coroutine
from importlib import import_module
from pathlib import Path

from bench.table import Row, place_of, replace_tables, show
from stagebox import logs

SUITES = {
    "startup": "mixer ready, enroll to first frame",
    "latency": "rack publish to subscriber callback, and to proof",
    "throughput": "sustained records/s over the snake",
    "rack-cpu": "CPU of a 2-channel rack process",
    "audio": "meters beside pyebur128 and numpy, Opus, whole racks, listening",
    "outage": "a day offline, then catch-up: live latency, alerts first, memory",
    "wal": "the journal from append to lake, beside SQLite: appends, CPU, bytes, recovery, shipping, questions",
    "wasm": "modules: a block through a host and back beside numpy, 100 instances, verification, compiling",
    "identity": "CSRs/s, racks admitted at once, ban to disconnect",
}


def _machine() -> str:
    return (
        f"{datetime.date.today().isoformat()}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}"
    )


def main() -> None:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(
        prog="just bench",
        description="Measure Stagebox beside the raw limit in the same run.",
        epilog="suites: " + "; ".join(f"{name} ({what})" for name, what in SUITES.items()),
    )
    parser.add_argument("suite", nargs="*", metavar="SUITE", help="which to run; all by default")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "--markdown",
        type=Path,
        metavar="FILE",
        help="replace these suites' tables in FILE (docs/benchmarks.md)",
    )
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.suite) - SUITES.keys())
    if unknown:
        parser.error(f"there is no suite {unknown[0]!r}; there are {', '.join(SUITES)}")
    if arguments.markdown:
        page = arguments.markdown.read_text("utf-8")
        for name in arguments.suite or SUITES:
            place_of(page, name)  # found out now, not after the run
    logs.setup("warning", "console")
    rows: list[Row] = []
    for name in arguments.suite or SUITES:
        run: Callable[[Callable[[str], None]], Coroutine[None, None, list[Row]]] = import_module(
            f"bench.{name.replace('-', '_')}"
        ).run
        rows += asyncio.run(run(lambda text: print(f"… {text}", file=sys.stderr, flush=True)))
    if arguments.markdown:
        page = arguments.markdown.read_text("utf-8")
        arguments.markdown.write_text(replace_tables(page, rows, _machine()), "utf-8")
    if arguments.json:
        print(json.dumps({"machine": _machine(), "rows": [row.as_dict() for row in rows]}))
    else:
        show(rows)


if __name__ == "__main__":
    main()
