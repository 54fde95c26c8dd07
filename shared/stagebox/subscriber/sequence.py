"""Counts lost records by gaps in their sequence numbers, per subject and boot. Pure.

Only records that count as genuine move the expected number, so a forged number cannot invent losses; records
that arrive late take their loss back.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from stagebox.subscriber.limits import SubscriberLimits


@dataclass
class _Position:
    expected: int
    missing: OrderedDict[int, None] = field(default_factory=OrderedDict)
    ahead: set[int] = field(default_factory=set)


class SequenceGaps:
    """``lost`` is how many records are missing between those received."""

    def __init__(self, limits: SubscriberLimits) -> None:
        self._max_gaps = limits.max_remembered_gaps
        self._max_streams = limits.max_sequence_streams
        self._positions: OrderedDict[tuple[str, bytes], _Position] = OrderedDict()
        self.lost = 0

    def genuine(self, subject: str, boot: bytes, seq: int) -> None:
        """Note a record whose number is believed."""
        position = self._positions.get((subject, boot))
        if position is None:
            self._open((subject, boot), _Position(seq + 1))
            return
        if seq < position.expected:
            self._late(position, seq)
            return
        for number in range(max(position.expected, seq - self._max_gaps), seq):
            if number not in position.ahead:
                position.missing[number] = None
        known = sum(1 for number in position.ahead if number < seq)
        self.lost += seq - position.expected - known
        position.expected = seq + 1
        position.ahead = {number for number in position.ahead if number > seq}
        while len(position.missing) > self._max_gaps:
            position.missing.popitem(last=False)

    def doubtful(self, subject: str, boot: bytes, seq: int) -> None:
        """Note a record that was received but not proved: it is not lost, and moves nothing."""
        position = self._positions.get((subject, boot))
        if position is None:
            return
        if seq < position.expected:
            self._late(position, seq)
        elif len(position.ahead) < self._max_gaps:
            position.ahead.add(seq)

    def _late(self, position: _Position, seq: int) -> None:
        if seq in position.missing:
            del position.missing[seq]
            self.lost -= 1

    def _open(self, key: tuple[str, bytes], position: _Position) -> None:
        self._positions[key] = position
        while len(self._positions) > self._max_streams:
            self._positions.popitem(last=False)
