"""The limits of a listener, in one place. Times are seconds unless the name says otherwise."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ListenLimits:
    """Limits of one listener."""

    rate: int = 48_000  # Hz, of everything that is listened to
    packet_frames: int = 960
    codec_delay: int = 120  # frames by which libopus' output lags its input in low-delay mode
    latency_ms: float = 60.0  # of the jitter buffer: from a packet's arrival in time to its play-out
    latency_min_ms: float = 5.0
    latency_max_ms: float = 2_000.0
    buffer_packets: int = 256  # five seconds; more means that nobody takes them
    starved_packets: int = 3  # concealed on end before a silent network is called a gap
    slew_per_s: float = 1e-3  # how much the play-out clock may follow the rack's clock, s/s
    slew_window: int = 250  # packets over which the least slack is looked for

    play_blocks: int = 25  # waiting for a sound device that is slower than the rack

    # Concealment
    conceal_search: int = 480  # frames of the past in which the pitch is looked for
    conceal_lag_min: int = 120  # 400 Hz
    conceal_lag_max: int = 960  # 50 Hz
    conceal_full: int = 480  # frames at full level before it fades
    conceal_silent: int = 2_880  # frames after which it is silence
    conceal_fade: int = 240  # cross-fade back to what is received

    # Lease
    lease_ttl_s: int = 30
    lease_renew_share: float = 1 / 3
    lease_retry_s: float = 1.0
    first_packet_s: float = 5.0  # without one by then the bus is not being sent


LISTEN_LIMITS = ListenLimits()
