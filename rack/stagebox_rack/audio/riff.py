"""Checks that a WAV file holds the audio its header promises (RIFF, RIFX, RF64 and BW64 chunk walk).

libsndfile quietly shortens a file whose data chunk claims more bytes than there are; a recording cut
off by a full disk or a broken copy would then play as if it were whole. Pure over a seekable stream.
"""

from __future__ import annotations

import os
from typing import BinaryIO, Final

_UNKNOWN: Final = 0xFFFFFFFF
_MAX_CHUNKS: Final = 4096


def missing_audio_bytes(file: BinaryIO) -> int:
    """How many bytes of audio the header claims beyond the end of ``file``; 0 when it is whole.

    Anything that is not a WAV, or has no data chunk to judge, gives 0: the decoder judges those. A data
    size of 0xFFFFFFFF in a plain RIFF is a stream header, which promises nothing.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(12)
    if len(head) < 12 or head[:4] not in (b"RIFF", b"RIFX", b"RF64", b"BW64") or head[8:] != b"WAVE":
        return 0
    order: Final = "big" if head[:4] == b"RIFX" else "little"
    wide = head[:4] in (b"RF64", b"BW64")
    data_size_64: int | None = None
    for _ in range(_MAX_CHUNKS):
        chunk = file.read(8)
        if len(chunk) < 8:
            return 0
        claimed = int.from_bytes(chunk[4:], order)
        start = file.tell()
        if chunk[:4] == b"ds64" and wide:
            data_size_64 = int.from_bytes(file.read(16)[8:16], "little")
        elif chunk[:4] == b"data":
            if claimed == _UNKNOWN:
                if data_size_64 is None:
                    return 0
                claimed = data_size_64
            return max(0, start + claimed - size)
        file.seek(start + claimed + claimed % 2)
    return 0
