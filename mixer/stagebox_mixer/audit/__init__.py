"""The audit: an append-only, hash-chained record of who did what, written before it takes effect.

``row`` is one row, ``refusals`` what keeps floods bounded, ``writer`` the chain, ``stream`` its storage, ``witness``
the head outside the stream, ``reader`` the way back, ``service`` what the mixer uses. docs/reference/audit.md says
it to the byte; ``stagebox.audit_chain`` verifies it.
"""

from __future__ import annotations

from stagebox_mixer.audit.reader import AuditReader, StoredRow
from stagebox_mixer.audit.row import Row
from stagebox_mixer.audit.service import Audit

__all__ = ["Audit", "AuditReader", "Row", "StoredRow"]
