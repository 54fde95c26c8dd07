"""The monitor encoder: one or two mixed channels as 20 ms Opus packets at 48 kHz.

libopus and libswresample come with PyAV. Rules: one packet every 960 frames, none invented: audio that
does not fill a packet before a gap is left out; a packet's ``start`` counts 48 kHz frames from the
source's sample index 0, so it jumps with a gap. The decoder's output lags the packets by
`PRE_SKIP` frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import av
import numpy as np
from av.audio.codeccontext import AudioCodecContext
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler

from stagebox.errors import CaptureError, ConfigError
from stagebox_rack.audio.framing import Frame, FrameAssembler
from stagebox_rack.limits import LIMITS
from stagebox_rack.metering.levels import Float32

PRE_SKIP: Final = 120  # libopus look-ahead in low-delay mode, in 48 kHz frames
_NS: Final = 1_000_000_000
_SAMPLE_FORMAT: Final = "flt"


@dataclass(frozen=True, slots=True)
class EncodedFrame:
    """One packet: its first frame in 48 kHz frames, the capture time of its end, and the bytes."""

    start: int
    end_ns: int
    data: bytes


class OpusEncoder:
    """Encodes one source, from contiguous blocks, until `reset` says the next does not continue."""

    def __init__(self, rate: int, channels: int, bit_rate: int = LIMITS.opus_bit_rate) -> None:
        """Prepare for ``channels`` (1 or 2) at ``rate`` Hz, at ``bit_rate`` bit/s.

        Raises:
            ConfigError: the bit rate is out of range.
            CaptureError: this PyAV has no libopus.
        """
        if not LIMITS.opus_bit_rate_min <= bit_rate <= LIMITS.opus_bit_rate_max:
            raise ConfigError(
                f"the monitor bit rate {bit_rate} bit/s is out of range",
                remedy=f"use {LIMITS.opus_bit_rate_min} to {LIMITS.opus_bit_rate_max} bit/s",
            )
        self.channels = channels
        self._rate = rate
        self._layout = "mono" if self.channels == 1 else "stereo"
        self._codec = _open_codec(self._layout, bit_rate)
        self._frames = FrameAssembler(LIMITS.opus_frame, self.channels, LIMITS.opus_rate)
        self._resampler: AudioResampler | None = None
        self._next: int | None = None  # 48 kHz index of the next frame

    @property
    def frames_due(self) -> int:
        """How many more frames of the source complete a packet; where it is resampled, about that many."""
        return (LIMITS.opus_frame - self._frames.pending) * self._rate // LIMITS.opus_rate

    def reset(self) -> None:
        """Drop what does not fill a packet: the next block does not continue the last."""
        self._frames.flush()
        self._resampler = None
        self._next = None

    def push(self, samples: Float32, index: int, time_ns: int) -> Iterator[EncodedFrame]:
        """Encode float32[frames, channels], all finite; yields each packet it completes."""
        if self._rate == LIMITS.opus_rate:
            frames = self._frames.push(samples, index, time_ns)
        else:
            frames = self._resample(samples, index, time_ns)
        for frame in frames:
            yield EncodedFrame(frame.index, frame.end_ns, self._encode(frame.samples))

    def _resample(self, samples: Float32, index: int, time_ns: int) -> Iterator[Frame]:
        if self._resampler is None or self._next is None:
            self._resampler = AudioResampler(_SAMPLE_FORMAT, self._layout, LIMITS.opus_rate)
            self._next = index * LIMITS.opus_rate // self._rate
        for out in self._resampler.resample(self._audio_frame(samples, self._rate)):
            block = out.to_ndarray().reshape(-1, self.channels).astype(np.float32, copy=False)
            # The resampler holds back its filter's delay, so its output starts before this block does.
            offset = self._next * _NS // LIMITS.opus_rate - index * _NS // self._rate
            yield from self._frames.push(block, self._next, time_ns + offset)
            self._next += len(block)

    def _encode(self, samples: Float32) -> bytes:
        packets = self._codec.encode(self._audio_frame(samples, LIMITS.opus_rate))
        if len(packets) != 1:
            raise CaptureError(f"the Opus encoder made {len(packets)} packets of one frame")
        return bytes(packets[0])

    def _audio_frame(self, samples: Float32, rate: int) -> AudioFrame:
        packed = np.ascontiguousarray(samples).reshape(1, -1)
        frame = AudioFrame.from_ndarray(packed, format=_SAMPLE_FORMAT, layout=self._layout)
        frame.sample_rate = rate
        return frame


def _open_codec(layout: str, bit_rate: int) -> AudioCodecContext:
    try:
        codec = av.CodecContext.create("libopus", "w")
        if not isinstance(codec, AudioCodecContext):
            raise CaptureError("this PyAV has no Opus audio encoder")
        codec.sample_rate = LIMITS.opus_rate
        codec.layout = layout
        codec.format = _SAMPLE_FORMAT
        codec.bit_rate = bit_rate
        codec.options = {
            "application": "lowdelay",
            "frame_duration": "20",
            "vbr": "constrained",
            "compression_level": str(LIMITS.opus_complexity),
        }
        codec.open()
    except (av.FFmpegError, ValueError) as error:
        raise CaptureError(
            f"the Opus encoder does not open: {error}", remedy="install a PyAV wheel with libopus"
        ) from error
    return codec
