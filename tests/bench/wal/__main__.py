"""``python -m bench.wal MODULE JOB ARGUMENTS``: one measurement of this suite, for :mod:`bench.wal.child`."""

from __future__ import annotations

import asyncio
import json
import sys
from importlib import import_module


def main() -> None:
    """Run the job that the command line names."""
    module, job, arguments = sys.argv[1:]
    work = getattr(import_module(f"bench.wal.{module}"), f"job_{job}")
    found = work(**json.loads(arguments))
    result = asyncio.run(found) if asyncio.iscoroutine(found) else found
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
