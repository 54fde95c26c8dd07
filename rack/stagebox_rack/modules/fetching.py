"""Fetches one module file from the mixer, piece by piece, under signed answers.

Every piece is the answer to a request of this process with a nonce of its own, so a piece of another file, place or
time fits none. Pieces are joined in memory and nowhere else: what was not fetched whole in one go is fetched anew. The
result is the mixer's word, not a verdict; the guard has that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random, SystemRandom

from stagebox import cbor
from stagebox.control.request import Answer, Verb
from stagebox.errors import BusError, DecodeError, StageboxError, VerificationError
from stagebox.modules.limits import LIMITS as FORMAT
from stagebox.modules.patch import Insert
from stagebox_rack.asking import MixerDesk
from stagebox_rack.limits import LIMITS, RackLimits


class FetchError(StageboxError):
    """A file that could not be fetched; ``code`` is the mixer's, or ``unreachable``, ``wrong_size``, ``not_wanted``."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class ModuleFetcher:
    """Fetches from ``desk``, one file at a time."""

    def __init__(self, desk: MixerDesk, *, limits: RackLimits = LIMITS, random: Random | None = None) -> None:
        self._desk = desk
        self._limits = limits
        self._random = random or SystemRandom()

    async def fetch(self, insert: Insert, *, wanted: Callable[[], bool]) -> bytes:
        """Return as many bytes as the insert says, unverified. May be cancelled at any moment; nothing is left.

        ``wanted`` is asked before each piece.

        Raises:
            FetchError: the mixer refuses, does not answer, or has a file of another size.
        """
        parts: list[bytes] = []
        offset = 0
        while offset < insert.size:
            answer = await self._piece(insert, offset, wanted)
            part = _take_piece(answer, insert, offset)
            parts.append(part)
            offset += len(part)
        return b"".join(parts)

    async def _piece(self, insert: Insert, offset: int, wanted: Callable[[], bool]) -> Answer:
        """Ask for one piece until it is answered, a bounded number of times."""
        body = {"Digest": insert.digest, "Offset": offset}
        wait, reason = self._limits.module_retry_first, ""
        for attempt in range(self._limits.module_fetch_tries):
            if attempt:
                await asyncio.sleep(wait * self._random.uniform(0.5, 1.0))
                wait = min(2 * wait, self._limits.module_retry_max)
            if not wanted():
                raise FetchError("not_wanted", f"{insert.module!r} is not wanted any more")
            try:
                answer = await self._desk.ask(Verb.MODULE, body)
            except (BusError, DecodeError, VerificationError) as error:
                reason = error.message
                continue
            if answer.error:
                raise FetchError(
                    answer.error, f"the mixer refuses the file: {answer.message or answer.error}"
                )
            return answer
        raise FetchError("unreachable", f"the mixer does not give the file: {reason}")


def _take_piece(answer: Answer, insert: Insert, offset: int) -> bytes:
    what = "module piece"
    fields = dict(answer.body)
    try:
        size = cbor.take_uint(fields, "Size", what)
        data = cbor.take_bytes(fields, "Data", what)
    except DecodeError as error:
        raise FetchError("malformed", error.message) from None
    if size != insert.size:
        raise FetchError("wrong_size", f"the mixer's file has {size} bytes, the sheet says {insert.size}")
    if not 0 < len(data) <= min(FORMAT.module_chunk_bytes, size - offset):
        raise FetchError("malformed", f"a piece at {offset} has {len(data)} bytes")
    return data
