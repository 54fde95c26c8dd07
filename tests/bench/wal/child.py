"""Measurements in a process of their own: ``python -m bench.wal MODULE JOB '{…}'`` prints one JSON object.

So that CPU time is that of the one job, and its end can be a SIGKILL.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

Result = dict[str, float]


async def measure(module: str, job: str, *, killed: bool = False, **arguments: Any) -> Result:
    """Run ``job`` of ``bench.wal.<module>`` and return what it measured; ``killed`` says that it kills itself.

    Raises:
        RuntimeError: it ended otherwise.
    """
    process = await start(module, job, **arguments)
    printed, _ = await process.communicate()
    if process.returncode != (-signal.SIGKILL if killed else 0):
        raise RuntimeError(f"the measurement {job!r} ended with {process.returncode}")
    result: Result = json.loads(printed.splitlines()[-1]) if printed else {}
    return result


async def start(module: str, job: str, **arguments: Any) -> asyncio.subprocess.Process:
    """Start a job without waiting for it."""
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.wal", module, job, json.dumps(arguments, default=str),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip


def bytes_written(directory: Path) -> int:
    """Return what the disk that holds ``directory`` was made to write so far, by whomever.

    Linux. What ``/proc/<pid>/io`` says is no use: it counts a whole folio, up to megabytes, for a page of it.

    Raises:
        RuntimeError: it is not on a disk of its own.
    """
    os.sync()
    device = directory.stat().st_dev
    try:
        fields = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat").read_text().split()
    except FileNotFoundError:
        raise RuntimeError(f"{directory} is not on a disk: set TMPDIR to a directory that is") from None
    return int(fields[6]) * 512
