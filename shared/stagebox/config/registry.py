"""Which sections exist: those of this distribution and those others add.

A distribution registers a section in the entry-point group ``stagebox.settings``: the name is the section,
the value its :class:`SectionSettings` class. A class is imported only when its section is looked into.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points

from stagebox.config.section import SectionSettings
from stagebox.errors import ConfigError

GROUP = "stagebox.settings"

# Sections that a shared file or environment may speak of although their distribution is not installed here.
KNOWN_ELSEWHERE = frozenset({"mixer", "rack", "client", "keys", "log"})

_SHARED = {"client": "stagebox.config.client:ClientSettings", "log": "stagebox.config.log:LogSettings"}


def sections() -> Mapping[str, str]:
    """Return section name → ``module:class`` of every installed section, sorted by name."""
    found = dict(_SHARED)
    found.update({point.name: point.value for point in entry_points(group=GROUP)})
    return dict(sorted(found.items()))


def settings_class(section: str) -> type[SectionSettings]:
    """Import and return the settings class of an installed section.

    Raises:
        ConfigError: its distribution cannot be imported.
    """
    module, _, name = sections()[section].partition(":")
    try:
        cls = getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the settings of [{section}] need the Python module {error.name!r}, which is missing",
            remedy=f"install the distribution that provides {module.partition('.')[0]} again",
        ) from error
    if not (isinstance(cls, type) and issubclass(cls, SectionSettings)):
        raise TypeError(f"the entry point {GROUP} {section} is not a SectionSettings class")
    return cls
