"""The error tree of Stagebox.

::

    StageboxError                 exit 1
    ├── ConfigError               exit 64  a setting is wrong or missing
    ├── InputError                exit 65  data given to us is wrong
    │   └── DecodeError                    bytes do not follow their documented format
    ├── KeyFileError              exit 66  a key or certificate file cannot be used
    ├── BusError                  exit 69  the snake or the bus is not usable
    ├── CaptureError              exit 69  audio cannot be captured
    ├── StorageError              exit 74  the disk refused or lost something
    ├── EnrollmentError           exit 76  the mixer refused an enrollment
    └── VerificationError         exit 77  something does not prove what it claims
        ├── PassportError         exit 78  the passport is not usable: the rack stops
        ├── ModuleError                    a Wasm module may not be used; ``code`` says why
        └── TlsError                       the peer or our own certificate is not acceptable

Exit codes follow sysexits.h where it has one. Every error says what was wrong with which input; ``remedy``
says what to do. Secrets never go into either.
"""

from __future__ import annotations

from typing import ClassVar


class StageboxError(Exception):
    """Base of every error Stagebox raises on purpose."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


class ConfigError(StageboxError):
    """A setting is wrong, unknown or missing."""

    exit_code = 64


class InputError(StageboxError):
    """Input from outside is not acceptable."""

    exit_code = 65


class DecodeError(InputError):
    """Bytes do not follow their documented format."""


class KeyFileError(StageboxError):
    """A key or certificate file is missing, unreadable, unsafe or would be overwritten."""

    exit_code = 66


class BusError(StageboxError):
    """The bus cannot be reached or refused an operation."""

    exit_code = 69


class CaptureError(StageboxError):
    """A source cannot be captured."""

    exit_code = 69


class StorageError(StageboxError):
    """The disk refused a write, or stored data is damaged."""

    exit_code = 74


class EnrollmentError(StageboxError):
    """The mixer refused an enrollment."""

    exit_code = 76


class VerificationError(StageboxError):
    """Something does not prove what it claims. Nothing is changed when this is raised."""

    exit_code = 77


class PassportError(VerificationError):
    """The passport is not usable; a rack stops with exit code 78."""

    exit_code = 78


class ModuleError(VerificationError):
    """A Wasm module is not what it has to be; ``code`` is the reason in alerts, audits and answers."""

    def __init__(self, code: str, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.code = code


class TlsError(VerificationError):
    """The peer's certificate, or our own, is not acceptable."""
