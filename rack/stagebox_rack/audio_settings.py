"""The tables below ``[rack]`` that say what is made of each source.

``[[rack.channels.<source>]]``, ``[rack.programmes.<source>.<name>]``, ``[rack.pairs]``, ``[rack.conditions.<source>]``
and ``[rack.buses.<name>]``. Each entry is checked alone here, without loading numpy; together in `audio_plans`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from stagebox.errors import InputError
from stagebox.identity import check_name
from stagebox_rack.limits import LIMITS


def _name(value: str) -> str:
    try:
        return check_name("name", value)
    except InputError as error:
        raise ValueError(error.message) from None


Name = Annotated[str, AfterValidator(_name)]
Gain = Annotated[float, Field(ge=LIMITS.channel_gain_min_db, le=LIMITS.channel_gain_max_db)]
Pan = Annotated[float, Field(ge=-1.0, le=1.0)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ChannelSettings(_Table):
    """One entry of ``[[rack.channels.<source>]]``; inputs count from 1, as on the front panel."""

    input: Annotated[int, Field(ge=1, le=LIMITS.audio_channels)]
    name: Name
    group: Name | Literal[""] = ""
    pan: Pan = 0.0
    gain_db: Gain = 0.0
    polarity: Literal["normal", "inverted"] = "normal"


class ProgrammeSettings(_Table):
    """``[rack.programmes.<source>.<name>]``: whose loudness is measured together."""

    channels: Annotated[tuple[str, ...], Field(min_length=1)]
    weights: tuple[Annotated[float, Field(ge=0, le=4)], ...] = ()


class RuleSettings(_Table):
    """One rule of ``[rack.conditions.<source>]``; what is not said stays as it is by default."""

    raise_db: Annotated[float, Field(ge=-150, le=20)] | None = None
    clear_db: Annotated[float, Field(ge=-150, le=20)] | None = None
    hold_s: Annotated[float, Field(ge=0, le=3600)] | None = None
    recover_s: Annotated[float, Field(ge=0, le=3600)] | None = None
    enabled: bool | None = None


class ConditionsSettings(_Table):
    """``[rack.conditions.<source>]``: when clipping, silence, a flatline, DC and hum are raised and when they end."""

    clip: RuleSettings = RuleSettings()
    clip_samples: Annotated[int, Field(ge=1, le=1000)] | None = None
    silence: RuleSettings = RuleSettings()
    flatline: RuleSettings = RuleSettings()
    dc: RuleSettings = RuleSettings()
    hum: RuleSettings = RuleSettings()


class BusSettings(_Table):
    """``[rack.buses.<name>]``: what a listener hears."""

    source: Name | None = None
    channels: tuple[str, ...] = ()
    gains_db: dict[str, Gain] = Field(default_factory=dict)
    pans: dict[str, Pan] = Field(default_factory=dict)
    mode: Literal["stereo", "mono"] = "stereo"
    kbit: (
        Annotated[int, Field(ge=LIMITS.opus_bit_rate_min // 1000, le=LIMITS.opus_bit_rate_max // 1000)] | None
    ) = None
