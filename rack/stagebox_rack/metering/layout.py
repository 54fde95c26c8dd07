"""What the meters of one source measure together: its programmes, stereo pairs, frame rate. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from stagebox_rack.limits import LIMITS

STEPS_PER_SECOND = 100
"""Everything is measured in steps of 10 ms, which are whole samples at every supported rate."""

_SURROUND = 1.41
_WEIGHTS_5_1 = (1.0, 1.0, 1.0, 0.0, _SURROUND, _SURROUND)  # L R C LFE Ls Rs


@dataclass(frozen=True)
class Programme:
    """Channels (by index) whose loudness is measured together, each with its BS.1770 weight."""

    name: str
    channels: tuple[int, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True)
class MeterLayout:
    """The meters of a source of ``channels`` at ``rate`` Hz."""

    rate: int
    channels: int
    programmes: tuple[Programme, ...] = ()
    pairs: tuple[tuple[int, int], ...] = ()
    frames_per_second: int = LIMITS.meter_rate_hz
    hold_s: float = LIMITS.meter_hold

    @property
    def step(self) -> int:
        """Samples in one step."""
        return self.rate // STEPS_PER_SECOND

    def steps_of(self, frame: int) -> int:
        """Steps in meter frame number ``frame``: as even as whole steps allow, and exact over a second."""
        fps = self.frames_per_second
        return (frame + 1) * STEPS_PER_SECOND // fps - frame * STEPS_PER_SECOND // fps


def programme_weights(channels: int) -> tuple[float, ...]:
    """The BS.1770-5 weights of a programme: of 5.1 in film order for six channels, 1.0 each for any other count."""
    return _WEIGHTS_5_1 if channels == len(_WEIGHTS_5_1) else (1.0,) * channels
