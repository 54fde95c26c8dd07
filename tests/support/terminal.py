"""The ``stagebox`` command as a process of its own, with nothing of this process's configuration."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path


@asynccontextmanager
async def stagebox(*arguments: str, cwd: Path | None = None) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start ``stagebox ARGUMENTS``; it is killed at the end if it still runs."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("STAGEBOX_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "stagebox.cli", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**environment, "COLUMNS": "160"},
        cwd=cwd,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def run(*arguments: str, cwd: Path | None = None, within: float = 40.0) -> tuple[int | None, str, str]:
    """Run ``stagebox ARGUMENTS``; return its exit code and what it printed on both streams."""
    async with stagebox(*arguments, cwd=cwd) as process, asyncio.timeout(within):
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()
