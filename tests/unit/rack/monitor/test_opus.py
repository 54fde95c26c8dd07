"""Monitor packets: real libopus, decoded again and compared."""

from __future__ import annotations

import av
import numpy as np
import numpy.typing as npt
import pytest
from av.audio.codeccontext import AudioCodecContext

from stagebox.errors import ConfigError
from stagebox_rack.limits import LIMITS
from stagebox_rack.monitor.opus import PRE_SKIP, EncodedFrame, OpusEncoder

NS = 1_000_000_000


def encode(
    encoder: OpusEncoder, signal: npt.NDArray[np.float32], rate: int, start: int = 0
) -> list[EncodedFrame]:
    block = rate // 100
    packets: list[EncodedFrame] = []
    for at in range(0, len(signal), block):
        index = start + at
        packets += encoder.push(signal[at : at + block], index, index * NS // rate)
    return packets


def decode(packets: list[EncodedFrame], channels: int) -> npt.NDArray[np.float32]:
    codec = av.CodecContext.create("libopus", "r")
    assert isinstance(codec, AudioCodecContext)
    codec.sample_rate = 48_000
    codec.layout = "mono" if channels == 1 else "stereo"
    frames = [frame for packet in packets for frame in codec.decode(av.Packet(packet.data))]
    blocks = [frame.to_ndarray().reshape(-1, channels).astype(np.float32) for frame in frames]
    scale = 32768.0 if frames[0].format.name.startswith("s16") else 1.0
    return np.concatenate(blocks) / np.float32(scale)


def tone(rate: int, seconds: float, channels: int) -> npt.NDArray[np.float32]:
    n = np.arange(round(rate * seconds))
    waves = [0.25 * np.sin(2 * np.pi * hz * n / rate) for hz in (440.0, 660.0, 880.0)[:channels]]
    return np.stack(waves, axis=1).astype(np.float32)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", LIMITS.audio_rates)
def test_what_is_decoded_is_what_went_in_in_time_and_level(rate: int, channels: int) -> None:
    encoder = OpusEncoder(rate, channels)
    packets = encode(encoder, tone(rate, 1.0, channels), rate)
    assert len(packets) >= 48
    assert [packet.start for packet in packets] == [960 * n for n in range(len(packets))]
    decoded = decode(packets, channels)[PRE_SKIP:]
    expected = tone(48_000, 1.0, channels)[: len(decoded), :channels]
    middle = slice(9600, len(decoded) - 4800)
    error = decoded[middle] - expected[middle]
    snr = 10 * np.log10(np.mean(expected[middle] ** 2) / np.mean(error**2))
    assert snr > 20, f"{snr:.1f} dB"


@pytest.mark.parametrize("rate", LIMITS.audio_rates)
def test_each_packet_is_dated_by_the_capture_time_of_its_end(rate: int) -> None:
    packets = encode(OpusEncoder(rate, 2), tone(rate, 0.5, 2), rate, start=rate * 10)
    for packet in packets:
        assert abs(packet.end_ns - (packet.start + 960) * NS // 48_000) < 50_000


def test_after_a_reset_packets_start_where_the_audio_does() -> None:
    encoder = OpusEncoder(48_000, 2)
    first = encode(encoder, tone(48_000, 0.03, 2), 48_000)
    encoder.reset()
    second = encode(encoder, tone(48_000, 0.04, 2), 48_000, start=100_000)
    assert [packet.start for packet in first] == [0]
    assert [packet.start for packet in second] == [100_000, 100_960]


def test_after_a_reset_a_resampled_source_owes_nothing_to_what_came_before() -> None:
    encoder = OpusEncoder(44_100, 2)
    encode(encoder, tone(44_100, 0.05, 2), 44_100)
    encoder.reset()
    packets = encode(encoder, tone(44_100, 0.1, 2), 44_100, start=441_000)
    assert packets[0].start == 480_000
    assert abs(packets[0].end_ns - (10 * NS + 20_000_000)) < 50_000


def test_the_bit_rate_is_what_was_asked_for() -> None:
    noise = np.random.default_rng(0).standard_normal((96_000, 2)).astype(np.float32) * 0.1
    for bit_rate in (32_000, 96_000, 256_000):
        packets = encode(OpusEncoder(48_000, 2, bit_rate), noise, 48_000)
        assert max(len(packet.data) for packet in packets) <= LIMITS.opus_packet_bytes
        actual = 8 * sum(len(packet.data) for packet in packets) / 2
        assert actual == pytest.approx(bit_rate, rel=0.15)


@pytest.mark.parametrize("bit_rate", [0, 31_999, 256_001])
def test_a_bit_rate_out_of_range_is_refused(bit_rate: int) -> None:
    with pytest.raises(ConfigError, match=f"{bit_rate} bit/s is out of range"):
        OpusEncoder(48_000, 2, bit_rate)
