"""What the decoder returns is the audio of 120 frames earlier: measured against the rack's own encoder."""

from __future__ import annotations

import numpy as np
import pytest

from stagebox.errors import DecodeError
from stagebox.listening.decoding import OpusDecoder
from stagebox.listening.limits import LISTEN_LIMITS
from stagebox_rack.monitor.opus import OpusEncoder


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("bit_rate", [32_000, 96_000, 256_000])
def test_the_codec_delays_by_what_the_limits_say(channels: int, bit_rate: int) -> None:
    rng = np.random.default_rng(0)
    spectrum = np.fft.rfft(rng.standard_normal(48_000))
    spectrum[6_000:] = 0  # 6 kHz: what every bit rate keeps
    mono = np.fft.irfft(spectrum).astype(np.float32)
    signal = np.repeat((0.2 * mono / np.abs(mono).max())[:, np.newaxis], channels, axis=1)
    encoder, decoder = OpusEncoder(48_000, channels, bit_rate), OpusDecoder(channels)
    decoded = np.concatenate([decoder.decode(frame.data) for frame in encoder.push(signal, 0, 0)])
    assert decoded.shape == signal.shape
    lags = range(400)
    likeness = [float(np.vdot(decoded[lag:, 0], signal[: len(signal) - lag, 0])) for lag in lags]
    assert int(np.argmax(likeness)) == LISTEN_LIMITS.codec_delay


def test_what_is_no_packet_is_an_error_and_the_next_one_decodes() -> None:
    encoder, decoder = OpusEncoder(48_000, 2), OpusDecoder(2)
    [good] = list(encoder.push(np.zeros((960, 2), dtype=np.float32), 0, 0))
    for bad in (b"\xff" * 3, b"\x03"):
        with pytest.raises(DecodeError):
            decoder.decode(bad)
    assert decoder.decode(good.data).shape == (960, 2)
