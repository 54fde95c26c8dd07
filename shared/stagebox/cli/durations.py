"""Durations as people write them: ``90s``, ``15m``, ``24h``, ``7d``."""

from __future__ import annotations

import re

from stagebox.errors import InputError

_UNIT_S = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(text: str, flag: str) -> int:
    """Return the whole seconds that ``text`` spells; a bare number is seconds.

    Raises:
        InputError: it is not a positive duration; the message names ``flag``.
    """
    match = re.fullmatch(r"([0-9]{1,9})([smhd]?)", text.strip())
    if not match or not int(match[1]):
        raise InputError(f"{flag} {text!r} is not a duration", remedy="write it like 90s, 15m or 24h")
    return int(match[1]) * _UNIT_S[match[2]]
