"""Module records for tests that care about where they go."""

from __future__ import annotations

from typing import Any

from stagebox.records.module import ModuleRecord


def module_record(seq: int, boot: bytes = bytes(16), *, time_ns: int = 1, **fields: Any) -> ModuleRecord:
    """Return a record of the module ``spl`` at the source ``main``."""
    said: dict[str, Any] = {
        "module": "spl",
        "version": "1.2.0",
        "insert": "spl-main",
        "source": "main",
        "start": seq * 48_000,
        "data": {"laeq": -20.5 - seq, "seconds": 1},
    }
    return ModuleRecord(seq=seq, boot=boot, time_ns=time_ns, **{**said, **fields})
