"""The log: structlog events to standard error, for a person on a terminal and as JSON lines elsewhere.

Rules:
- A secret never gets out: values under secret-sounding names are masked, and any value given to
  ``register_secret`` is masked wherever it turns up, tracebacks included.
- Control characters are escaped, so nothing that came from outside can forge a line or drive a terminal.
- Standard-library loggers (uvicorn, nats, aiohttp) go the same way and obey the same rules.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
from collections.abc import Mapping, MutableMapping
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

MASK = "********"
_MIN_SECRET_CHARS = 6
_SECRET_WORDS = frozenset(
    {"token", "secret", "passphrase", "password", "seed", "authorization", "cookie", "credential"}
)
# C0, DEL, C1 and the characters that reorder text on a screen.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_CONTROL_BUT_NEWLINE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_BYTES_SHOWN = 32
_MAX_DEPTH = 8

_secrets: set[str] = set()
_secrets_lock = threading.Lock()

_CHATTY = ("httpx", "httpcore", "uvicorn.error", "asyncio")


def register_secret(value: str | bytes) -> None:
    """Mask ``value`` wherever it would appear in the log from now on.

    Very short values are ignored: masking them would blot out ordinary words.
    """
    forms = {value.decode("utf-8", "replace"), value.hex()} if isinstance(value, bytes) else {value}
    with _secrets_lock:
        _secrets.update(text for text in forms if len(text) >= _MIN_SECRET_CHARS)


def setup(level: str = "info", form: str = "auto", stream: TextIO | None = None) -> None:
    """Send all logging of this process to ``stream`` (standard error by default).

    ``level`` is ``debug|info|warning|error``; ``form`` is ``auto|console|json``, where ``auto`` means console
    on a terminal. Calling it again replaces the earlier set-up.
    """
    target = sys.stderr if stream is None else stream
    console = form == "console" or (form == "auto" and target.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        clean,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        # Loggers made at import time, before this runs, must still follow it.
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *shared],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _console_renderer(target) if console else structlog.processors.JSONRenderer(default=str),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for chatty in _CHATTY:
        # Their "info" is a line a request: of interest only to somebody who asked for debug.
        logging.getLogger(chatty).setLevel(logging.DEBUG if level == "debug" else logging.WARNING)
    logging.captureWarnings(True)
    # A log that cannot be written (closed pipe, full disk) must not print tracebacks about itself.
    logging.raiseExceptions = False


def clean(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Mask secrets and escape control characters in one event (a structlog processor)."""
    cleaned: MutableMapping[str, Any] = {}
    for key, value in event.items():
        if key.startswith("_"):
            cleaned[key] = value  # structlog's own bookkeeping, removed before rendering
        elif _names_a_secret(key):
            cleaned[printable(key)] = MASK
        elif key in ("exception", "stack") and isinstance(value, str):
            cleaned[key] = _escape(_mask(value), _CONTROL_BUT_NEWLINE)
        else:
            cleaned[printable(key)] = _clean_value(value, 0)
    return cleaned


def _clean_value(value: object, depth: int) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, bytes | bytearray | memoryview):
        shown = bytes(value[:_BYTES_SHOWN]).hex() + ("…" if len(value) > _BYTES_SHOWN else "")
        return _mask(shown)
    if depth < _MAX_DEPTH and isinstance(value, Mapping):
        return {
            printable(str(key)): MASK if _names_a_secret(str(key)) else _clean_value(item, depth + 1)
            for key, item in value.items()
        }
    if depth < _MAX_DEPTH and isinstance(value, list | tuple | set | frozenset):
        return [_clean_value(item, depth + 1) for item in value]
    return printable(str(value))


def _names_a_secret(key: str) -> bool:
    words = re.split(r"[^a-z0-9]+", key.lower())
    if not _SECRET_WORDS.isdisjoint(word.rstrip("s") for word in words) or "pass" in words:
        return True
    return words[-1] in ("key", "nkey") and "public" not in words


def _mask(text: str) -> str:
    with _secrets_lock:
        found = [secret for secret in _secrets if secret in text]
    # Longest first: one secret may be part of another.
    for secret in sorted(found, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return text


def _escape(text: str, pattern: re.Pattern[str] = _CONTROL) -> str:
    return pattern.sub(lambda match: match.group().encode("unicode_escape").decode("ascii"), text)


def _console_renderer(target: TextIO) -> Processor:
    colors = target.isatty() and "NO_COLOR" not in os.environ
    return structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)


def printable(text: str) -> str:
    """Return ``text`` fit for a terminal: secrets masked, control characters escaped."""
    return _escape(_mask(text))
