"""Configuration in layers: flags over ``STAGEBOX_*`` environment over one TOML file over defaults.

``load`` returns the settings of one section with the origin of each value. A name that nobody knows is an
error with the nearest known one, because a misspelt setting that is silently ignored is worse than none.
"""

from __future__ import annotations

from stagebox.config.layers import Loaded, Origin, load
from stagebox.config.section import CommaList, SectionSettings, UserPath

__all__ = ["CommaList", "Loaded", "Origin", "SectionSettings", "UserPath", "load"]
