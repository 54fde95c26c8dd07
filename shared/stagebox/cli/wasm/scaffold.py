"""The files of a starter module, from the templates in this package and the ABI's header and definitions.

A template's ``@NAME@`` becomes the module's name; its ``module.<ext>`` is named after the module.
"""

from __future__ import annotations

import enum
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from stagebox.errors import InputError, StorageError
from stagebox.modules.manifest import FILE_NAME, Language

_NAME = "@NAME@"
_SOURCE_ENDING = {Language.C: ".c", Language.ASSEMBLYSCRIPT: ".ts", Language.WAT: ".wat"}
_DEFINITIONS = {
    Language.C: {"stagebox.h": "stagebox.h", "stagebox_math.h": "stagebox_math.h"},
    Language.ASSEMBLYSCRIPT: {"lib/stagebox.ts": "stagebox.ts"},
    Language.WAT: {},
}


class Starter(enum.StrEnum):
    """What a new module does to begin with."""

    AUDIO = "audio"
    """A gain: audio in, audio out."""
    TELEMETRY = "telemetry"
    """Meter frames in, a record of its own now and then."""


def starter_files(name: str, language: Language, starter: Starter) -> dict[str, str]:
    """Return path below the new directory → text."""
    found = {}
    template = files(__package__) / "templates" / language.value / starter.value
    for entry in sorted(template.iterdir(), key=lambda entry: entry.name):
        path = f"{name}{_SOURCE_ENDING[language]}" if _is_source(entry) else entry.name
        found[path] = entry.read_text("utf-8").replace(_NAME, name)
    for path, original in _DEFINITIONS[language].items():
        found[path] = (files("stagebox.modules") / "sdk" / original).read_text("utf-8")
    return found


def write_starter(directory: Path, contents: dict[str, str]) -> None:
    """Write the files into ``directory``, which must not exist or be empty.

    Raises:
        InputError: it holds something.
        StorageError: it cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise InputError(f"{directory} is not empty", remedy="choose a directory that does not exist yet")
        for path, text in contents.items():
            file = directory / path
            file.parent.mkdir(exist_ok=True)
            file.write_text(text, "utf-8")
    except FileExistsError:
        raise InputError(f"{directory} is a file", remedy="choose another --dir") from None
    except OSError as error:
        raise StorageError(f"cannot write {directory}: {error.strerror}") from error


def _is_source(entry: Traversable) -> bool:
    return entry.name.startswith("module.") and entry.name != FILE_NAME
