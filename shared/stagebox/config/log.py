"""``[log]``: how much is logged and in which form."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from stagebox.config.section import SectionSettings

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "console", "json"]


class LogSettings(SectionSettings):
    """Settings of the log on standard error."""

    section: ClassVar[str] = "log"

    level: Annotated[Level, Field(description="least severity that is logged")] = "info"
    format: Annotated[Format, Field(description="auto: console on a terminal, JSON lines otherwise")] = "auto"
