"""Opus packets to samples. libopus comes with PyAV."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from stagebox.errors import DecodeError
from stagebox.listening.limits import LISTEN_LIMITS

Float32 = npt.NDArray[np.float32]


class OpusDecoder:
    """Decodes the packets of one bus with ``channels`` channels.

    The output of a packet lags its input by `ListenLimits.codec_delay` frames: what it returns for a packet that
    starts at frame *n* is the audio of *n* − 120 onwards.
    """

    def __init__(self, channels: int) -> None:
        import av
        from av.audio.codeccontext import AudioCodecContext

        codec = av.CodecContext.create("libopus", "r")
        assert isinstance(codec, AudioCodecContext)
        codec.sample_rate = LISTEN_LIMITS.rate
        codec.layout = "mono" if channels == 1 else "stereo"
        codec.format = "flt"
        codec.open()
        self._codec: Any = codec
        self._error = av.FFmpegError
        self._packet = av.Packet
        self._channels = channels

    def decode(self, data: bytes) -> Float32:
        """Return float32[frames, channels].

        Raises:
            DecodeError: it is not an Opus packet.
        """
        try:
            frames = self._codec.decode(self._packet(data))
        except self._error as error:
            raise DecodeError(f"a packet is not Opus: {error}") from None
        parts = [self._samples(frame.to_ndarray()) for frame in frames]
        if not parts:
            raise DecodeError("an Opus packet holds no audio")
        return np.concatenate(parts)

    def _samples(self, array: npt.NDArray[Any]) -> Float32:
        planar = array.shape[0] == self._channels and self._channels > 1
        shaped = array.T if planar else array.reshape(-1, self._channels)
        if shaped.dtype == np.int16:
            return shaped.astype(np.float32) / np.float32(32768)
        return shaped.astype(np.float32)
