"""What the kernel knows of its clock: whether something disciplines it, and how far off it may be (adjtimex(2))."""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
from typing import Any

_STA_UNSYNC = 0x0040
_STA_NANO = 0x2000


class _Timex(ctypes.Structure):
    """struct timex of Linux; ``rest`` is room for what is not read."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 256),
    )


@functools.cache
def _adjtimex() -> Any:
    library = ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)
    return getattr(library, "adjtimex", None)


def clock_state() -> dict[str, Any]:
    """``synchronised`` (None where the kernel does not say), ``max_error_us``, ``estimated_error_us``, ``offset_us``.

    The last three are missing where the kernel does not say.
    """
    call = _adjtimex()
    timex = _Timex()
    if call is None or call(ctypes.byref(timex)) < 0:
        return {"synchronised": None}
    offset = timex.offset / 1000 if timex.status & _STA_NANO else float(timex.offset)
    return {
        "synchronised": not timex.status & _STA_UNSYNC,
        "max_error_us": int(timex.maxerror),
        "estimated_error_us": int(timex.esterror),
        "offset_us": offset,
    }


def clock_quality() -> str:
    """Return ``synchronised``, ``unsynchronised`` or ``unknown``: what seals say of the clock."""
    synchronised = clock_state()["synchronised"]
    return "unknown" if synchronised is None else "synchronised" if synchronised else "unsynchronised"
