"""The lake from a notebook: records as a pyarrow table, asked of a mixer over its API.

>>> import stagebox.lake
>>> stagebox.lake.table("https://mixer:8443", "ops", "meter", rack="stage-left").to_pandas()

Needs pyarrow.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stagebox.mixer_api import MixerApi


@contextmanager
def batches(
    mixer: str, identity: Path | str, kind: str, *, rack: str = "", first: str = "", last: str = ""
) -> Iterator[Any]:
    """Give a ``pyarrow.RecordBatchReader`` over every record of one kind; memory stays small.

    Dates are UTC, YYYY-MM-DD, both in. Levels are hundredths of a decibel, as they are stored.

    Raises:
        StageboxError: the mixer cannot be reached or refuses.
    """
    from pyarrow import ipc

    with (
        MixerApi(mixer, Path(identity)) as api,
        api.lake_records(kind, rack=rack, first=first, last=last) as parts,
    ):
        yield ipc.open_stream(_Pieces(parts))


def table(
    mixer: str, identity: Path | str, kind: str, *, rack: str = "", first: str = "", last: str = ""
) -> Any:
    """Return every record of one kind as a ``pyarrow.Table``; see :func:`batches`.

    Raises:
        StageboxError: the mixer cannot be reached or refuses.
    """
    with batches(mixer, identity, kind, rack=rack, first=first, last=last) as reader:
        return reader.read_all()


class _Pieces(io.RawIOBase):
    """The pieces of a download as the file that pyarrow reads from."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Return ``size`` bytes, fewer only at the end."""
        parts: list[bytes] = []
        wanted = size if size >= 0 else 1 << 62
        while wanted:
            if not self._rest:
                piece = next(self._pieces, None)
                if piece is None:
                    break
                self._rest = memoryview(piece)
            taken, self._rest = self._rest[:wanted], self._rest[wanted:]
            parts.append(bytes(taken))
            wanted -= len(taken)
        return b"".join(parts)
