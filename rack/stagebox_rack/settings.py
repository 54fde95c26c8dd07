"""``[rack]``: the appliance's settings."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field, field_validator
from pydantic_settings import NoDecode

from stagebox.config.section import CommaList, SectionSettings, UserPath
from stagebox_rack.audio_settings import BusSettings, ChannelSettings, ConditionsSettings, ProgrammeSettings
from stagebox_rack.limits import LIMITS
from stagebox_rack.wal.kek_protection import Protection


def _argv(value: object) -> object:
    return tuple(shlex.split(value)) if isinstance(value, str) else value


ArgumentList = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_argv)]
"""A program and its arguments; as one text it is split like a shell would, but no shell ever runs it."""


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
    channels: Annotated[
        dict[str, tuple[ChannelSettings, ...]],
        Field(description="channel map of each source: input, name, group, pan, gain_db, polarity"),
    ] = {}  # noqa: RUF012 - settings are frozen
    programmes: Annotated[
        dict[str, dict[str, ProgrammeSettings]],
        Field(description="channels of each source whose loudness is measured together"),
    ] = {}  # noqa: RUF012 - settings are frozen
    pairs: Annotated[
        dict[str, tuple[tuple[str, str], ...]],
        Field(description="stereo pairs of each source whose phase correlation is measured"),
    ] = {}  # noqa: RUF012 - settings are frozen
    conditions: Annotated[
        dict[str, ConditionsSettings],
        Field(description="when clip, silence, flatline, dc and hum are raised, for each source"),
    ] = {}  # noqa: RUF012 - settings are frozen
    buses: Annotated[
        dict[str, BusSettings],
        Field(description="monitor buses: source, channels, gains_db, pans, mode, kbit"),
    ] = {}  # noqa: RUF012 - settings are frozen
    meter_rate: Annotated[
        int, Field(ge=1, le=LIMITS.meter_rate_max_hz, description="meter frames a second")
    ] = LIMITS.meter_rate_hz
    peak_hold: Annotated[float, Field(ge=0, le=60, description="seconds a sample peak is held")] = (
        LIMITS.meter_hold
    )
    checkpoint_interval: Annotated[
        float, Field(ge=0.02, le=60, description="seconds between signed checkpoints")
    ] = 1.0
    heartbeat_interval: Annotated[
        float, Field(ge=1, le=300, description="seconds between status records")
    ] = 5.0
    wal_quota_mib: Annotated[
        int,
        Field(ge=64, description="MiB the journal may take; beyond it the oldest acknowledged goes first"),
    ] = LIMITS.wal_quota_bytes >> 20
    wal_grace_hours: Annotated[
        float,
        Field(ge=0, le=24 * 366, description="hours the journal keeps what the mixer has, if it has room"),
    ] = LIMITS.wal_grace / 3600
    wal_commit_ms: Annotated[
        float, Field(ge=1, le=1000, description="milliseconds of records made durable together")
    ] = LIMITS.wal_commit_window * 1000
    wal_key_protection: Annotated[
        Protection,
        Field(
            description="a new journal's key: file, credential (systemd), tpm2, or auto for the best there is"
        ),
    ] = Protection.AUTO
    module_hosts: Annotated[
        int,
        Field(ge=0, le=LIMITS.module_hosts, description="processes that run modules; 0 is one a core"),
    ] = 0
    mixer_url: Annotated[
        str | None, Field(description="API of a mixer for renewal over HTTPS, instead of the enrolled one")
    ] = None
    rekey_on_renewal: Annotated[bool, Field(description="make a new identity key at every renewal")] = False
    renew_command: Annotated[
        ArgumentList, Field(description="program that renews the certificate instead of the mixer")
    ] = ()
    renew_command_timeout: Annotated[
        float, Field(ge=1, le=3600, description="seconds the renew command may take")
    ] = LIMITS.renew_command_timeout

    @field_validator("mixer_url")
    @classmethod
    def _https(cls, value: str | None) -> str | None:
        from stagebox_rack.mixer_http import parse_mixer_url

        if value is not None and not parse_mixer_url(value, "rack.mixer_url").secure:
            raise ValueError("renewal needs https://")
        return value
