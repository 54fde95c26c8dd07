"""Brings from the mixer what the module service lacks: newer sheets, and files. The only part that waits for the snake.

The sheet is asked for on every connect and now and then, files while one is wanted. One thing is asked at a time, the
sheet first; a file that is not wanted any more is given up at its next piece. What fails is tried again after a while
and on the next connect; a file that the guard refused is left alone for longer, whatever connects.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from stagebox import cbor
from stagebox.control.request import Verb
from stagebox.errors import BusError, StageboxError
from stagebox.modules.patch import Insert
from stagebox_rack.asking import MixerDesk
from stagebox_rack.limits import LIMITS, RackLimits
from stagebox_rack.modules.fetching import FetchError, ModuleFetcher

log = structlog.get_logger()


class ModuleSupply:
    """The supply of one rack; ``serial`` gives that of the sheet held."""

    def __init__(
        self,
        desk: MixerDesk,
        fetcher: ModuleFetcher,
        *,
        serial: Callable[[], int],
        limits: RackLimits = LIMITS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._desk = desk
        self._fetcher = fetcher
        self._serial = serial
        self._limits = limits
        self._monotonic = monotonic
        self._wanted: dict[bytes, Insert] = {}
        self._unanswered: dict[bytes, float] = {}  # digests, and when they are asked for again
        self._refused: dict[bytes, float] = {}
        self._ask_at = 0.0
        self._ask_wait = limits.module_retry_first
        self._complained = ""
        self._wake = asyncio.Event()
        self.fetching: bytes | None = None
        """The digest of the file on its way."""

    def attach(
        self,
        *,
        take_sheet: Callable[[bytes], Awaitable[None]],
        take_file: Callable[[Insert, bytes], Awaitable[bool]],
        failed: Callable[[Insert, str, str], None],
    ) -> None:
        """Say who takes a fresh answer (empty: nothing newer), a file (False: refused), a failure (code, reason)."""
        self._take_sheet, self._take_file, self._failed = take_sheet, take_file, failed

    def connected(self) -> None:
        """The bus is up (again): ask at once."""
        self._ask_at, self._ask_wait = 0.0, self._limits.module_retry_first
        self._unanswered.clear()
        self._wake.set()

    def want(self, inserts: tuple[Insert, ...]) -> None:
        """Say which files are missing now; others are not asked for any more."""
        self._wanted = {insert.digest: insert for insert in reversed(inserts)}
        self._wake.set()

    async def run(self) -> None:
        """Supply until cancelled."""
        while True:
            self._wake.clear()
            if self._desk.connected:
                await self._work()
            try:
                async with asyncio.timeout(self._pause()):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _work(self) -> None:
        """Do one thing that is due, if there is one."""
        now = self._monotonic()
        for waiting in (self._unanswered, self._refused):
            for digest in [digest for digest, when in waiting.items() if when <= now]:
                del waiting[digest]
        if now >= self._ask_at:
            await self._ask()
            self._wake.set()
            return
        put_off = self._unanswered.keys() | self._refused.keys()
        insert = next((insert for digest, insert in self._wanted.items() if digest not in put_off), None)
        if insert is not None:
            await self._fetch(insert)
            self._wake.set()

    def _pause(self) -> float:
        """Return in how many seconds something is due."""
        if not self._desk.connected:
            return self._limits.module_ask  # the next connect wakes us
        due = [self._ask_at]
        for waiting in (self._unanswered, self._refused):
            due += [when for digest, when in waiting.items() if digest in self._wanted]
        return max(0.0, min(due) - self._monotonic())

    async def _ask(self) -> None:
        try:
            answer = await self._desk.ask(Verb.PATCH, {"Serial": self._serial()})
            if answer.error:
                raise BusError(f"the mixer refuses the patch sheet: {answer.message or answer.error}")
            await self._take_sheet(cbor.take_bytes(dict(answer.body), "Sheet", "patch answer"))
        except StageboxError as error:
            if error.message != self._complained:
                self._complained = error.message
                log.warning("patch_sheet_not_heard", reason=error.message)
            self._ask_at = self._monotonic() + self._ask_wait
            self._ask_wait = min(2 * self._ask_wait, self._limits.module_retry_max)
        else:
            self._complained = ""
            self._ask_at, self._ask_wait = (
                self._monotonic() + self._limits.module_ask, self._limits.module_retry_first,
            )  # fmt: skip

    async def _fetch(self, insert: Insert) -> None:
        digest, self.fetching = insert.digest, insert.digest
        try:
            data = await self._fetcher.fetch(insert, wanted=lambda: digest in self._wanted)
            self._wanted.pop(digest, None)  # if it is missing still, the next pass says so
            taken = await self._take_file(insert, data)
        except FetchError as error:
            if error.code != "not_wanted":
                self._unanswered[digest] = self._monotonic() + self._limits.module_fetch_retry
                self._failed(insert, error.code, error.message)
        else:
            if not taken:
                self._refused[digest] = self._monotonic() + self._limits.module_refetch
        finally:
            self.fetching = None
