"""Denial: who is banned, kept where a restored backup cannot lose it."""

from stagebox_mixer.denial.record import Note
from stagebox_mixer.denial.store import Denials, DeniedError

__all__ = ["Denials", "DeniedError", "Note"]
