"""The JSON bodies of requests. Unknown fields are let through: an old mixer must talk to a newer client."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from stagebox.control.listen import LEASE_BYTES
from stagebox.limits import LIMITS as SHARED
from stagebox.modules.limits import LIMITS as FORMAT
from stagebox_mixer.limits import LIMITS


def _one_line(text: str) -> str:
    if not text.isprintable():
        raise ValueError("it must be one line of printable text")
    return text


Reason = Annotated[str, Field(max_length=LIMITS.reason_chars), AfterValidator(_one_line)]
"""Why somebody did something, as it stands in the audit; in a body or a query."""


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


class TokenRequest(_Body):
    """``POST /api/v1/tokens``."""

    rack: str = Field(max_length=SHARED.max_name_chars)
    ttl_s: int = LIMITS.token_default_ttl_s
    machine_id: int = Field(default=0, ge=0, lt=1 << 64)


class EnrollRequest(_Body):
    """``POST /api/v1/racks/enroll``."""

    token: str = Field(max_length=256, repr=False)
    csr: str = Field(max_length=8192)
    machine_id: int = Field(ge=1, lt=1 << 64)
    rack: str | None = Field(default=None, max_length=SHARED.max_name_chars)
    passport: str = Field(default="", max_length=2 * SHARED.max_passport_bytes, repr=False)


class StepRequest(_Body):
    """``POST /api/v1/racks/{name}/{approve,suspend,activate,rotate-secret}``; the whole body may be left out."""

    reason: Reason = ""


class ListenRequest(_Body):
    """``POST /api/v1/racks/{name}/listen``; ``lease`` renews one."""

    bus: str = Field(max_length=SHARED.max_name_chars)
    ttl_s: int = LIMITS.listen_default_s
    lease: str | None = Field(default=None, max_length=2 * LEASE_BYTES)


class ResetMetersRequest(_Body):
    """``POST /api/v1/racks/{name}/reset-meters``; the whole body may be left out."""

    source: str = Field(default="", max_length=SHARED.max_name_chars)
    programme: str = Field(default="", max_length=SHARED.max_name_chars)


class DenyRequest(_Body):
    """``POST /api/v1/denied``: ``value`` is a name, 16 hex digits, or ``sha256:<hex>``, as ``kind`` says."""

    kind: str = Field(max_length=16)
    value: str = Field(max_length=128)
    reason: Reason = Field(min_length=1)


class HoldRequest(_Body):
    """``POST /api/v1/lake/holds``: every rack if ``rack`` is empty, every date if ``first`` and ``last`` are."""

    name: str = Field(max_length=SHARED.max_name_chars)
    rack: str = Field(default="", max_length=SHARED.max_name_chars)
    first: str = Field(default="", max_length=10)
    last: str = Field(default="", max_length=10)
    reason: Reason = Field(min_length=1)


class RevokeRequest(_Body):
    """``POST /api/v1/modules/{name}/{version}/revoke`` and ``/api/v1/vendors/{vendor}/revoke``."""

    reason: Reason = Field(min_length=1)


class AssignRequest(_Body):
    """``POST /api/v1/assignments``: with an ``id`` that is there already it changes that one."""

    id: str | None = Field(default=None, max_length=SHARED.max_name_chars)
    module: str = Field(max_length=FORMAT.max_name_chars)
    version: str = Field(max_length=FORMAT.max_version_chars)
    racks: list[Annotated[str, Field(max_length=SHARED.max_name_chars)]] = Field(
        max_length=LIMITS.assignment_patterns
    )
    point: str = Field(max_length=16)
    source: str = Field(default="", max_length=SHARED.max_name_chars)
    bus: str = Field(default="", max_length=SHARED.max_name_chars)
    params: dict[str, float] = Field(default_factory=dict, max_length=FORMAT.max_params)
    percent: int = 100
    reason: Reason = ""
