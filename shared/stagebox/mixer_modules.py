"""The part of the mixer's API that is about Wasm modules: what ``stagebox wasm import`` and its like call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stagebox.mixer_api import MixerApi, segment

_PIECE_BYTES = 64 << 10


@dataclass(frozen=True)
class WantedAssignment:
    """What is asked for: a module at a place on some racks. ``id`` changes the assignment of that name."""

    module: str
    version: str
    racks: Sequence[str]
    point: str
    source: str = ""
    bus: str = ""
    params: Mapping[str, float] = field(default_factory=dict)
    percent: int = 100
    id: str | None = None
    reason: str = ""

    def body(self) -> dict[str, object]:
        """Return the body of the request."""
        return {
            "module": self.module,
            "version": self.version,
            "racks": list(self.racks),
            "point": self.point,
            "source": self.source,
            "bus": self.bus,
            "params": dict(self.params),
            "percent": self.percent,
            "reason": self.reason,
            **({"id": self.id} if self.id is not None else {}),
        }


@dataclass(frozen=True)
class Listed:
    """What there is, and what the mixer has and cannot read: with its ``key`` or ``id``, and the ``problem``."""

    found: list[dict[str, Any]]
    unreadable: list[dict[str, Any]]


class ModulesApi(MixerApi):
    """The same mixer, spoken to as the same identity, about modules."""

    def import_module(
        self,
        data: bytes,
        *,
        grant: Sequence[str] | None = None,
        limits: Mapping[str, int] | None = None,
        allow_older: bool = False,
        reason: str = "",
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> dict[str, Any]:
        """Send a vendor-signed file; ``progress`` hears how many of its bytes are sent."""
        params: dict[str, str | list[str]] = {name: str(value) for name, value in (limits or {}).items()}
        if grant is not None:
            params["grant"] = list(grant)
        if allow_older:
            params["allow_older"] = "true"
        if reason:
            params["reason"] = reason
        return self._upload("/api/v1/modules", _pieces(data, progress), len(data), params)

    def modules(self) -> Listed:
        """Return every imported version of every module."""
        return self._listed("/api/v1/modules", "modules")

    def module(self, name: str) -> Listed:
        """Return every version of one module."""
        return self._listed(f"/api/v1/modules/{segment(name)}", "versions")

    def reissue(self, name: str, version: str, reason: str = "") -> dict[str, Any]:
        """Have a version countersigned again."""
        return self._call("POST", f"{_path(name, version)}/reissue", {"reason": reason} if reason else {})

    def revoke_module(self, name: str, version: str, reason: str) -> dict[str, Any]:
        """Revoke one version everywhere."""
        return self._call("POST", f"{_path(name, version)}/revoke", {"reason": reason})

    def revoke_vendor(self, vendor: str, reason: str) -> dict[str, Any]:
        """Revoke everything a vendor signed, by its name or a key's id."""
        return self._call("POST", f"/api/v1/vendors/{segment(vendor)}/revoke", {"reason": reason})

    def vendors(self) -> list[dict[str, Any]]:
        """Return the trusted vendors, and the files that cannot be used."""
        return self._list("/api/v1/vendors", "vendors")

    def assignments(self, module: str = "") -> Listed:
        """Return all assignments, or those of one module."""
        return self._listed("/api/v1/assignments", "assignments", {"module": module} if module else {})

    def assign(self, wanted: WantedAssignment) -> dict[str, Any]:
        """Make an assignment, or change one."""
        return self._call("POST", "/api/v1/assignments", wanted.body())

    def unassign(self, name: str, reason: str = "") -> dict[str, Any]:
        """Remove an assignment."""
        path = f"/api/v1/assignments/{segment(name)}"
        return self._call("DELETE", path, params={"reason": reason} if reason else {})

    def _listed(self, path: str, field: str, params: dict[str, str] | None = None) -> Listed:
        answer = self._call("GET", path, params=params)
        return Listed(self._list_in(answer, field), self._list_in({"unreadable": [], **answer}, "unreadable"))


def _path(name: str, version: str) -> str:
    return f"/api/v1/modules/{segment(name)}/{segment(version)}"


def _pieces(data: bytes, progress: Callable[[int, int], None]) -> Iterator[bytes]:
    for at in range(0, len(data), _PIECE_BYTES):
        yield data[at : at + _PIECE_BYTES]
        progress(min(at + _PIECE_BYTES, len(data)), len(data))
