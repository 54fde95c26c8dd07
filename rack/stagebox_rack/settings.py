"""``[rack]``: the appliance's settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from stagebox.config.section import CommaList, SectionSettings, UserPath
from stagebox_rack.limits import LIMITS


class RackSettings(SectionSettings):
    """Settings of ``stagebox rack`` and ``stagebox admin enroll``."""

    section: ClassVar[str] = "rack"

    state_dir: Annotated[UserPath, Field(description="identity and write-ahead log of this rack")] = Path(
        "/var/lib/stagebox"
    )
    sources: Annotated[
        CommaList, Field(min_length=1, description="what is captured: device:…, file:…, tone:…")
    ] = ("device:default",)
    wait_for_enrollment: Annotated[
        bool, Field(description="wait for `admin enroll` instead of stopping when there is no passport")
    ] = False
    machine_id: Annotated[
        int | None, Field(ge=1, lt=1 << 64, description="replaces the id derived from /etc/machine-id")
    ] = None
    monitor_kbit: Annotated[
        int,
        Field(
            ge=LIMITS.opus_bit_rate_min // 1000,
            le=LIMITS.opus_bit_rate_max // 1000,
            description="Opus bit rate of the monitor bus, kbit/s",
        ),
    ] = LIMITS.opus_bit_rate // 1000
    checkpoint_interval: Annotated[
        float, Field(ge=0.02, le=60, description="seconds between signed checkpoints")
    ] = 1.0
    heartbeat_interval: Annotated[
        float, Field(ge=1, le=300, description="seconds between status records")
    ] = 5.0
    wal_quota_mib: Annotated[
        int, Field(ge=64, description="acknowledged journal data beyond this may be evicted, MiB")
    ] = LIMITS.wal_quota_bytes >> 20
