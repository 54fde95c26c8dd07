"""One audit row and its stored form, to the byte as docs/reference/audit.md says. Pure."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from dataclasses import dataclass, field, replace

from stagebox.errors import InputError
from stagebox.limits import LIMITS as SHARED
from stagebox_mixer.limits import LIMITS

VERSION = 2

_ACTION = re.compile(r"[a-z][a-z0-9_]{0,62}")
_CUT = "…"


@dataclass(frozen=True)
class Row:
    """One audit row: ``actor`` did ``action`` to ``subject``; ``result`` is ``ok``, ``refused`` or ``failed``."""

    actor: str
    action: str
    subject: str
    result: str
    reason: str = ""
    detail: dict[str, str | int] = field(default_factory=dict)
    count: int = 1

    def encode(self, row_id: str, time_ns: int, prev: str) -> bytes:
        """Return the stored form; ``prev`` is the hash of the row before."""
        return json.dumps(
            {
                "v": VERSION,
                "id": row_id,
                "prev": prev,
                "time_ns": time_ns,
                "actor": self.actor,
                "action": self.action,
                "subject": self.subject,
                "result": self.result,
                "reason": self.reason,
                "detail": self.detail,
                "count": self.count,
            },
            sort_keys=True,
        ).encode()


def check(row: Row, size: int) -> None:
    """Check a row before it is written; ``size`` is that of its stored form.

    Raises:
        InputError: its action cannot be a subject, or it is too long.
    """
    if not _ACTION.fullmatch(row.action):
        raise InputError(f"{row.action!r} cannot be the action of an audit row")
    if size > SHARED.max_audit_row_bytes:
        raise InputError(
            f"an audit row of {row.action} would have {size} bytes, at most {SHARED.max_audit_row_bytes} are legal",
            remedy="shorten what it is about, for instance the reason given",
        )


def bounded(row: Row) -> Row:
    """Return a refusal with every text cut to its limit, because the refused chose the texts.

    Its stored form has at most ``refusal_row_bytes``; a cut text ends with an ellipsis.
    """
    detail: dict[str, str | int] = {}
    left = LIMITS.refusal_detail_bytes
    for key, value in row.detail.items():
        limit = left - _size(key) - len('"": "", ')
        item = _fitted(value, limit) if isinstance(value, str) else value
        if limit < _size(item):
            break
        detail[key] = item
        left = limit - _size(item)
    return replace(
        row,
        actor=_fitted(row.actor, LIMITS.refusal_text_bytes),
        subject=_fitted(row.subject, LIMITS.refusal_text_bytes),
        reason=_fitted(row.reason, LIMITS.refusal_text_bytes // 4),
        detail=detail,
    )


def _size(value: str | int) -> int:
    return len(json.dumps(value)) - (2 if isinstance(value, str) else 0)


def _fitted(text: str, limit: int) -> str:
    """Return ``text``, cut so that its JSON has at most ``limit`` bytes between the quotes."""
    if len(text) <= limit and _size(text) <= limit:
        return text
    ends = range(1, min(len(text), limit) + 1)
    kept = bisect_right(ends, limit - _size(_CUT), key=lambda end: _size(text[:end]))
    return text[:kept] + _CUT
