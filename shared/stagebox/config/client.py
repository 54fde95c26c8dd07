"""``[client]``: where a person's or tool's commands find the mixer and the snake, and who they are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field, field_validator

from stagebox.config.section import CommaList, SectionSettings, UserPath


class ClientSettings(SectionSettings):
    """Settings of ``stagebox tail``, ``stagebox admin`` and the subscriber SDK."""

    section: ClassVar[str] = "client"

    mixer: Annotated[str, Field(description="base URL of the mixer's API")] = "https://localhost:8443"
    servers: Annotated[CommaList, Field(min_length=1, description="snake URLs, tried in turn")] = (
        "wss://localhost:4222",
    )
    identity: Annotated[
        UserPath, Field(description="directory with client.crt, client.key and ca.pem (keys gen-client)")
    ] = Path("~/.config/stagebox/identity")

    @field_validator("mixer")
    @classmethod
    def _https_only(cls, value: str) -> str:
        if not value.startswith("https://"):
            raise ValueError(f"{value!r} is not an https:// URL; your client certificate needs TLS")
        return value.rstrip("/")

    @field_validator("servers")
    @classmethod
    def _wss_only(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for url in value:
            if not url.startswith("wss://"):
                raise ValueError(f"{url!r} is not a wss:// URL")
        return value
