"""The shared memory of one chain: a header and two planar buffers, as the rack and a host both see it.

Layout of the anonymous memory, all numbers little-endian int64 in the machine's own order::

    0      asked       sequence of the last request           written by the rack
    8      frames      of the piece that was asked for
    16     start       sample index of its first frame
    24     time_ns     when that was captured
    64     answered    sequence of the last answer            written by the host
    72     status      WET or DRY
    80     fuel        that the modules there have used so far
    4096   in          float32[blocks][channels][block]
    …      out         the same shape, on a page of its own

``block`` is 20 ms. A piece fills one block after the other; in the last one only the first frames of each channel
count. There is one request at a time. The order of what both sides see is that of the system calls between them: the
doorbell is rung after the request is written, and the answer is read after its own sequence came out of the reply pipe.
The memory's size is sealed, so a host that was taken over can write nonsense here, but not make the rack fault; and the
rack's end of each pipe is its own, so it cannot make the rack wait.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import struct

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]

ASKED, FRAMES, START, TIME = 0, 1, 2, 3
ANSWERED, STATUS, FUEL = 8, 9, 10
DRY, WET = 0, 1

_PAGE = 4096
_SAMPLE = 4
BELL = struct.Struct("=H")
REPLY = struct.Struct("=q")
"""What a host says in a lane's reply pipe: the sequence of what it answered."""
CONTROL = 0xFFFF
"""What is rung when there is a message; a lane is rung by its number."""


def _pages(size: int) -> int:
    return -(-size // _PAGE) * _PAGE


class Lane:
    """One side's view. ``header`` is an int64 view; ``inputs`` and ``outputs`` float32[blocks, channels, block]."""

    def __init__(self, descriptor: int, block: int, channels: int, blocks: int) -> None:
        """Map the memory of ``descriptor``, which stays the caller's.

        Raises:
            ValueError: it is too small. OSError: it cannot be mapped.
        """
        self.block = block
        self.channels = channels
        self.blocks = blocks
        shape = (blocks, channels, block)
        count = blocks * channels * block
        second = _PAGE + _pages(count * _SAMPLE)
        self._memory = mmap.mmap(descriptor, second + _pages(count * _SAMPLE))
        self.header = memoryview(self._memory).cast("q")
        self.inputs: Float32 = np.frombuffer(self._memory, np.float32, count, _PAGE).reshape(shape)
        self.outputs: Float32 = np.frombuffer(self._memory, np.float32, count, second).reshape(shape)
        # Views of the first so many blocks as float32[blocks, block, channels]: making one costs more than a copy.
        self._wide_inputs = [self.inputs[:some].transpose(0, 2, 1) for some in range(blocks + 1)]
        self._wide_outputs = [self.outputs[:some].transpose(0, 2, 1) for some in range(blocks + 1)]

    @property
    def capacity(self) -> int:
        """Frames of the longest piece."""
        return self.block * self.blocks

    @staticmethod
    def create(block: int, channels: int, blocks: int) -> int:
        """Return a descriptor of new memory, sized for good.

        Raises:
            OSError: no memory or no descriptor is left.
        """
        descriptor = os.memfd_create("stagebox-lane", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(descriptor, _PAGE + 2 * _pages(blocks * channels * block * _SAMPLE))
            fcntl.fcntl(
                descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            )
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def write(self, samples: Float32) -> None:
        """Put float32[frames, channels], at most :attr:`capacity` frames, into the input blocks."""
        whole, rest = divmod(len(samples), self.block)
        if not rest:
            np.copyto(self._wide_inputs[whole], samples.reshape(self._wide_inputs[whole].shape))
            return
        head = samples[: whole * self.block]
        self._wide_inputs[whole][...] = head.reshape(self._wide_inputs[whole].shape)
        self.inputs[whole, :, :rest] = samples[whole * self.block :].T

    def read(self, frames: int) -> Float32:
        """Return the first ``frames`` of the output blocks as new float32[frames, channels]."""
        whole, rest = divmod(frames, self.block)
        if not rest:
            return self._wide_outputs[whole].copy("C").reshape(frames, self.channels)
        samples: Float32 = np.empty((frames, self.channels), np.float32)
        head = samples[: whole * self.block]
        head.reshape(self._wide_outputs[whole].shape)[...] = self._wide_outputs[whole]
        samples[whole * self.block :] = self.outputs[whole, :, :rest].T
        return samples

    def close(self) -> None:
        """Unmap. Nobody may use :attr:`inputs` or :attr:`outputs` of before any more."""
        del self.inputs, self.outputs, self._wide_inputs, self._wide_outputs
        self.header.release()
        with contextlib.suppress(BufferError):  # a view that somebody still has keeps it until that is gone
            self._memory.close()
