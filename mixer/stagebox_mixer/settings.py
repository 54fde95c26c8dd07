"""``[mixer]``: the control plane's settings."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from stagebox.config.section import CommaList, SectionSettings, UserPath
from stagebox_mixer.limits import LIMITS


class MixerSettings(SectionSettings):
    """Settings of ``stagebox mixer run``."""

    section: ClassVar[str] = "mixer"

    dir: Annotated[UserPath, Field(description="the mixer/ directory that keys gen-cluster made")] = Path(
        "/etc/stagebox/mixer"
    )
    data_dir: Annotated[
        UserPath | None, Field(description="registry, streams and ledger; by default data/ inside dir")
    ] = None
    witness_dir: Annotated[
        UserPath | None,
        Field(
            description="newest deny list and audit head, not to be in a backup; by default beside data_dir"
        ),
    ] = None
    lake: Annotated[
        str | None,
        Field(description="the lake: a directory or s3://bucket/prefix; by default lake/ in data_dir"),
    ] = None
    lake_keep_days: Annotated[
        int, Field(ge=0, le=36500, description="records older than this go, but for legal holds; 0 keeps all")
    ] = 0
    wasm_dir: Annotated[
        UserPath | None,
        Field(
            description="keys/ in it holds the trusted vendors of Wasm modules; by default wasm/ in data_dir"
        ),
    ] = None
    name: Annotated[str, Field(description="this mixer's name in logs and certificates")] = "mixer"
    public_names: Annotated[
        CommaList, Field(description="host names and addresses racks and people reach this mixer by")
    ] = ()
    https_host: Annotated[str, Field(description="address the API listens on")] = "0.0.0.0"  # noqa: S104 - racks come from outside
    https_port: Annotated[int, Field(ge=0, le=65535, description="port of the API; 0 chooses one")] = 8443
    snake_host: Annotated[str, Field(description="address the snake listens on")] = "0.0.0.0"  # noqa: S104
    snake_port: Annotated[int, Field(ge=0, le=65535, description="port of the snake; 0 chooses one")] = 4222
    auto_approve: Annotated[bool, Field(description="an enrolled rack is active at once")] = True
    rack_certificate_days: Annotated[
        float, Field(ge=0.005, le=397, description="life of a rack's certificate; renewed at two thirds")
    ] = LIMITS.rack_certificate_days
    grace_days: Annotated[
        int, Field(ge=0, le=3650, description="how long after its certificate's end a rack may still renew")
    ] = LIMITS.grace_days
    grace_uses: Annotated[
        int, Field(ge=0, le=1000, description="how often in a row a rack may renew after the end")
    ] = LIMITS.grace_uses
    allow_shared_token: Annotated[
        bool, Field(description="let the racks in shared_token_racks enroll with one shared token (weak)")
    ] = False
    shared_token_racks: Annotated[CommaList, Field(description="racks that may use the shared token")] = ()
    shared_token_file: Annotated[
        UserPath | None, Field(description="file that holds the shared token, mode 0600")
    ] = None

    @property
    def data(self) -> Path:
        """The data directory in effect."""
        return self.data_dir if self.data_dir is not None else self.dir / "data"

    @property
    def lake_place(self) -> str:
        """Where the lake is."""
        return self.lake if self.lake is not None else str(self.data / "lake")

    @property
    def vendor_keys(self) -> Path:
        """The directory of trusted vendors in effect."""
        return (self.wasm_dir if self.wasm_dir is not None else self.data / "wasm") / "keys"

    @property
    def witness(self) -> Path:
        """The witness directory in effect."""
        return (
            self.witness_dir
            if self.witness_dir is not None
            else self.data.with_name(self.data.name + "-witness")
        )

    def server_names(self) -> tuple[str, ...]:
        """Return every name the server certificate must carry, the public ones first."""
        own = (socket.gethostname(), "localhost", "127.0.0.1", "::1")
        return tuple(dict.fromkeys((*self.public_names, *own)))
