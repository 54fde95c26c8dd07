"""``[keys]``: how the key files of a cluster are opened."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, SecretStr

from stagebox.config import SectionSettings, UserPath


class KeysSettings(SectionSettings):
    """Settings of ``stagebox keys`` and of whatever opens its key files, such as the mixer."""

    section: ClassVar[str] = "keys"

    passphrase: Annotated[
        SecretStr | None, Field(description="passphrase of the private keys (prefer passphrase_file)")
    ] = None
    passphrase_file: Annotated[
        UserPath | None, Field(description="file whose first line is the passphrase")
    ] = None
