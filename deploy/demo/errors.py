"""What can stop a demo, said in words, with the log that shows it."""

from __future__ import annotations

from pathlib import Path

from stagebox.errors import StageboxError


class DemoError(StageboxError):
    """The demo cannot go on. ``log`` is the file whose end shows why, if one does."""

    def __init__(self, message: str, *, remedy: str | None = None, log: Path | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.log = log
