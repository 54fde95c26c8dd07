"""The witness: the audit's head in a small file outside the stream, so that a shortened stream is noticed.

JSON, one line: ``{"head": "<64 hex digits>", "seq": <number>, "v": 1}``. Written atomically, never in place.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path

import structlog

from stagebox.audit_chain import EMPTY, Head
from stagebox.errors import InputError, StorageError
from stagebox.files import make_private_dir, write_atomic
from stagebox_mixer.limits import LIMITS

log = structlog.get_logger()
VERSION = 1
_MAX_BYTES = 1024


def read(path: Path) -> Head | None:
    """Return the head in the file, or None if there is no file.

    Raises:
        StorageError: it cannot be read, or is damaged.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"cannot read the audit's witness {path}: {error.strerror}") from error
    try:
        fields = json.loads(data)
        if len(data) > _MAX_BYTES or fields["v"] != VERSION or type(fields["seq"]) is not int:
            raise ValueError
        return Head.parse(f"{fields['seq']}:{fields['head']}")
    except (ValueError, KeyError, TypeError, InputError):
        raise StorageError(f"the audit's witness {path} is damaged") from None


def write(path: Path, head: Head) -> None:
    """Replace the file.

    Raises:
        StorageError: it cannot be written; the old one is untouched.
    """
    fields = {"v": VERSION, "seq": head.seq, "head": head.hash}
    write_atomic(path, json.dumps(fields, sort_keys=True).encode() + b"\n")


class Witness:
    """Keeps the file behind the head: at most one write in ``audit_witness_s``, and one at the end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._head = EMPTY
        self._moved = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._complaint = ""
        self.noted: Head | None = None

    def load(self) -> Head | None:
        """Return what an earlier run noted, or None if there was none.

        Raises:
            StorageError: it is damaged.
        """
        self.noted = read(self._path)
        return self.noted

    def start(self) -> None:
        """Make the directory and begin to write.

        Raises:
            StorageError: there can be no such directory.
        """
        make_private_dir(self._path.parent)
        self._task = asyncio.create_task(self._run(), name="audit-witness")

    async def stop(self) -> None:
        """Write the newest head, then end."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
            await self._note()

    def advance(self, head: Head) -> None:
        """Take a new head; it is written soon."""
        self._head = head
        self._moved.set()

    async def _run(self) -> None:
        while True:
            await self._moved.wait()
            self._moved.clear()
            if not await self._note():
                self._moved.set()
            await asyncio.sleep(LIMITS.audit_witness_s)

    async def _note(self) -> bool:
        head = self._head
        if head == self.noted or head == EMPTY:
            return True
        writing = asyncio.ensure_future(asyncio.to_thread(write, self._path, head))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            # The thread goes on: two writes must not overtake each other.
            with contextlib.suppress(StorageError):
                await writing
                self.noted = head
            raise
        except StorageError as error:
            if error.message != self._complaint:
                log.error("audit_witness_not_written", error=error.message, remedy=error.remedy)
            self._complaint = error.message
            return False
        self._complaint = ""
        self.noted = head
        return True
