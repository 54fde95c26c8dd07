"""Which commands this rack obeys. Pure: the clock and the stored mark come in as arguments.

A command whose signature by the pinned cluster key was verified is obeyed iff it is for this rack of this cluster, its
sequence is higher than that of every command accepted before and it was issued later than those, it has not expired, it
was not issued in a future that no clock error explains, and it does not live too long. Sequence and time are both asked
for because a mixer put back from a backup counts again from where it was: a command from before, delayed on the bus,
may have a higher sequence than a later one. The same command again is not obeyed but answered with the same
ack. Rules of the order: :meth:`CommandGate.accept` gives the mark that must be durable *before* the command is carried
out; :meth:`CommandGate.finish` the one with its ack, made durable afterwards. A crash in between leaves a command that
was accepted and has no ack: it is never carried out again and answered ``interrupted``.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

from stagebox.control.command import AckResult, Command
from stagebox_rack.commands.mark import CommandMark
from stagebox_rack.limits import RackLimits

_NS = 1_000_000_000

# Only the last command is remembered: whether an older one, or one from before the mark was lost, was carried out
# when it first came, nobody knows here. It is not carried out now.
_PAST_UNKNOWN = frozenset({"mark_lost", "old_sequence", "issued_too_early"})


class Verdict(enum.Enum):
    """What to do with an authentic command."""

    OBEY = enum.auto()
    REPEAT = enum.auto()
    """It was accepted before: answer with the ack kept, or ``interrupted`` if there is none."""
    REFUSE = enum.auto()
    IGNORE = enum.auto()
    """It is not this rack's: no ack, because it was not asked."""


@dataclass(frozen=True)
class Judgement:
    """A verdict; ``reason`` is a code, empty for OBEY and REPEAT."""

    verdict: Verdict
    reason: str = ""

    @property
    def result(self) -> AckResult:
        """What the ack of a refusal says: ``refused`` only if the command was certainly never carried out."""
        return AckResult.FAILED if self.reason in _PAST_UNKNOWN else AckResult.REFUSED


class CommandGate:
    """The gate of one rack. ``mark`` None means that what was accepted before is not known: nothing passes."""

    def __init__(self, *, cluster: str, rack: str, mark: CommandMark | None, limits: RackLimits) -> None:
        self._cluster = cluster
        self._rack = rack
        self._limits = limits
        self.mark = mark

    def judge(self, command: Command, digest: bytes, now_ns: int) -> Judgement:
        """Judge a command whose signature verified; ``digest`` is that of its payload."""
        if command.cluster != self._cluster:
            return Judgement(Verdict.IGNORE, "other_cluster")
        if command.rack != self._rack:
            return Judgement(Verdict.IGNORE, "other_rack")
        mark = self.mark
        if mark is None:
            return Judgement(Verdict.REFUSE, "mark_lost")
        if command.seq == mark.seq and digest == mark.digest:
            return Judgement(Verdict.REPEAT)
        reason = self._wrong_order(command, mark) or self._wrong_time(command, now_ns)
        return Judgement(Verdict.REFUSE, reason) if reason else Judgement(Verdict.OBEY)

    def accept(self, command: Command, digest: bytes) -> CommandMark:
        """Return the mark to make durable before the command is carried out; give it to :meth:`keep` then."""
        assert self.mark is not None
        return replace(self.mark, seq=command.seq, digest=digest, ack=b"", issued_after=command.issued)

    def finish(self, ack: bytes) -> CommandMark:
        """Return the mark with the ack of the command accepted last."""
        assert self.mark is not None
        return replace(self.mark, ack=ack)

    def restored(self, seq: int, time_ns: int) -> CommandMark:
        """Return the mark to start from after the old one was lost.

        ``seq`` and ``time_ns`` come from a fresh, verified answer of the mixer to a request of this process: every
        command that could have been obeyed before was issued before that answer, by the same clock.
        """
        return CommandMark(self._cluster, self._rack, seq, issued_after=time_ns)

    def keep(self, mark: CommandMark) -> None:
        """Take a mark that is durable now."""
        self.mark = mark

    def _wrong_order(self, command: Command, mark: CommandMark) -> str:
        if command.seq <= mark.seq:
            return "old_sequence"
        return "issued_too_early" if command.issued <= mark.issued_after else ""

    def _wrong_time(self, command: Command, now_ns: int) -> str:
        if command.expires - command.issued > self._limits.command_max_ttl * _NS:
            return "lives_too_long"
        if command.issued > now_ns + self._limits.command_skew * _NS:
            return "not_yet"
        return "expired" if now_ns >= command.expires else ""
