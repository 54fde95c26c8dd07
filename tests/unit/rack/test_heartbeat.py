from __future__ import annotations

import dataclasses
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stagebox import cbor
from stagebox.bus import BusClient
from stagebox.errors import BusError
from stagebox.records.status import Status
from stagebox_rack.audio.measurement import SourceState, SourceStatus
from stagebox_rack.clock_state import clock_state
from stagebox_rack.heartbeat import _source, status_body
from stagebox_rack.host import HostSampler
from stagebox_rack.limits import LIMITS
from stagebox_rack.monitor.bus import BusPlan
from stagebox_rack.monitor.service import MonitorService
from stagebox_rack.publisher import Publisher
from stagebox_rack.state import RackIdentity
from stagebox_rack.wal.wal import WalStats
from support.pki import DAY, NOW, Ca

REFERENCE = Path(__file__).parents[3] / "docs" / "reference" / "subjects.md"
FACTS = {"tls": "TLSv1.3", "cipher": "TLS_AES_256_GCM_SHA384", "client_certificate": True}
LEAF = Ca().issue(Ed25519PrivateKey.generate().public_key(), not_after=NOW + 3 * DAY)


def counted(kind: type[Any], **values: Any) -> Any:
    """An instance of a dataclass of counters whose fields count up, besides ``values``."""
    numbers = {field.name: number for number, field in enumerate(dataclasses.fields(kind))}
    return kind(**{**numbers, **values})


RENEWAL = {"managed_by": "mixer", "renewal_due": 7, "renewal_overdue": False, "renewal_problem": ""}
SOURCE = counted(
    SourceStatus,
    source="main",
    state=SourceState.LOST,
    reason="unplugged",
    channel_names=("left", "right"),
    programmes=("all",),
    pairs=((0, 1),),
)
BUSES = [{"name": "main", "source": "main", "listening": True}]
HOST = {"cpu_percent": 3.5, "addresses": {"eth0": ["192.0.2.1"]}, "versions": {"python": "3.11"}}


class FakeBus:
    """The one question a heartbeat asks of the bus."""

    def __init__(self, connected: bool) -> None:
        self._connected = connected

    def transport_facts(self) -> dict[str, Any]:
        if not self._connected:
            raise BusError("not connected")
        return FACTS


MODULE = {
    "insert": "spl-main",
    "module": "spl",
    "version": "1.2.0",
    "digest": "ab" * 32,
    "point": "tap",
    "source": "main",
    "state": "running",
    "code": "",
    "faults": 0,
    "over_budget": 1,
    "bypassed": 2,
}


def body(
    *,
    connected: bool = True,
    modules: Sequence[Mapping[str, Any]] = (MODULE,),
    published: Mapping[str, int] = MappingProxyType({"rack.r.status": 1}),
    host: Mapping[str, Any] = MappingProxyType(HOST),
) -> dict[str, Any]:
    publisher = SimpleNamespace(published=published, dropped={}, not_journalled=2)
    identity = SimpleNamespace(chain=(LEAF,), passport=SimpleNamespace(serial=4, secret="hunter22"))
    return status_body(
        uptime_s=1.23456,
        identity=cast(RackIdentity, identity),
        sources=[SOURCE],
        buses=BUSES,
        host=host,
        publisher=cast(Publisher, publisher),
        handover_dropped=3,
        wal=counted(WalStats),
        shipper_phase="shipping",
        bus=cast(BusClient, FakeBus(connected)),
        renewal=RENEWAL,
        modules=modules,
    )


def test_a_heartbeat_says_what_the_rack_counted() -> None:
    found = body()
    assert found["published"] == {"rack.r.status": 1}
    assert (found["not_journalled"], found["handover_dropped"], found["uptime_s"]) == (2, 3, 1.235)
    assert found["transport"] == FACTS
    assert found["wal"]["shipper"] == "shipping"
    stats = counted(WalStats)
    lag = stats.committed - stats.acknowledged
    assert found["wal"] == {**dataclasses.asdict(stats), "shipper": "shipping", "lag_records": lag}
    assert (found["buses"], found["host"]) == (BUSES, HOST)
    assert set(found["clock"]) >= {"synchronised"}
    assert (found["sources"][0]["channel_names"], found["sources"][0]["pairs"]) == (
        ["left", "right"],
        [[0, 1]],
    )
    assert (found["sources"][0]["state"], found["sources"][0]["reason"]) == ("lost", "unplugged")
    assert found["certificate_not_after"] == int((NOW + 3 * DAY).timestamp())
    assert found["passport_serial"] == 4
    assert found["renewal"] == RENEWAL
    assert (found["modules"], found["modules_omitted"]) == ([MODULE], 0)


def test_live_messages_of_modules_are_counted_together_whatever_they_call_their_outputs() -> None:
    published = {"rack.r.status": 1, "rack.r.module.spl.leq": 5, "rack.r.module.noise.events": 2}
    assert body(published=published)["published"] == {"rack.r.status": 1, "rack.r.module.>": 7}


def test_of_more_modules_than_fit_those_that_do_not_run_are_told_before_those_that_do() -> None:
    names = ("insert", "module", "version", "source")
    rows = [{**MODULE, **dict.fromkeys(names, f"{n:063d}")} for n in range(256)]
    stopped = [{**rows[number], "state": "stopped", "code": "three_strikes"} for number in (40, 250)]
    rows[40], rows[250] = stopped
    found = body(modules=rows)
    assert found["modules_omitted"] == 256 - len(found["modules"]) > 0
    assert [row for row in found["modules"] if row["state"] == "stopped"] == stopped
    assert found["modules"] == [row for row in rows if row in found["modules"]], "in the order of the sheet"
    size = sum(len(cbor.encode(row)) for row in found["modules"])
    assert LIMITS.heartbeat_modules_bytes / 2 < size <= LIMITS.heartbeat_modules_bytes


def test_a_disconnected_rack_says_nothing_of_a_transport() -> None:
    assert body(connected=False)["transport"] is None


@pytest.mark.parametrize("connected", [True, False])
def test_a_heartbeat_survives_the_wire_and_carries_no_secret(connected: bool) -> None:
    data = Status(1, bytes(16), 2, "running", body(connected=connected)).encode()
    assert Status.decode(data).body == body(connected=connected)
    cbor.decode_canonical(data, max_bytes=len(data))
    assert b"hunter22" not in data


def unused(*_: Any) -> Any:
    raise AssertionError("nothing is listened to")


def test_the_fullest_rack_there_can_be_fits_a_record() -> None:
    names = tuple(f"channel-with-a-long-name-{n:02d}" for n in range(64))
    source = dataclasses.replace(
        SOURCE,
        source="a-source-with-a-very-long-name",
        channels=64,
        channel_names=names,
        programmes=tuple(f"programme-{n:02d}" for n in range(16)),
        pairs=tuple((n, n + 1) for n in range(0, 64, 2)),
    )
    modules = [{**MODULE, "module": f"a-module-with-a-long-name-{n}"} for n in range(256)]
    full = {**body(modules=modules), "sources": [_source(source)] * LIMITS.audio_sources}
    assert len(Status(1 << 40, bytes(16), 1 << 62, "running", full).encode()) < 64 << 10


def test_modules_never_make_a_heartbeat_too_large_to_be_read() -> None:
    for size in range(40 << 10, 62 << 10, 1 << 10):
        found = body(modules=[MODULE] * 256, host={"versions": {"os": "x" * size}})
        assert len(found["modules"]) + found["modules_omitted"] == 256
        Status.decode(Status(1, bytes(16), 1, "running", found).encode())
    assert body(modules=[MODULE] * 256, host={"versions": {"os": "x" * (63 << 10)}})["modules"] == []


def test_a_host_is_sampled_without_inventing_anything() -> None:
    sampler = HostSampler(Path.cwd())
    assert set(sampler.latest()) == {"versions"}, "nothing was sampled yet"
    sample = sampler.sample()
    assert 0 < sample["memory_available"] <= sample["memory_total"]
    assert 0 <= sample["disk_free"] <= sample["disk_total"]
    assert sample["temperature_c"] is None or -40 <= sample["temperature_c"] <= 150
    assert not any(a.startswith("127.") for found in sample["addresses"].values() for a in found)
    assert sampler.latest()["versions"]["python"] == platform.python_version()


def test_the_kernels_clock_state_is_read() -> None:
    state = clock_state()
    assert state["synchronised"] in (True, False, None)
    if state["synchronised"] is not None:
        assert state["max_error_us"] >= 0


def test_every_field_of_a_heartbeat_is_in_the_reference() -> None:
    documented = set(re.findall(r"`([a-z_]+)`", REFERENCE.read_text()))
    found = body()
    said = {*found, *found["wal"], *found["sources"][0], *found["renewal"], *found["clock"], *FACTS}
    said |= {*HostSampler(Path.cwd()).sample(), "age_s", "versions"}
    buses = MonitorService([BusPlan("main", "main")], tap=unused, emit=unused, event=unused).status()
    said |= {*buses[0], *MODULE}
    assert said <= documented, f"not in {REFERENCE.name}: {sorted(said - documented)}"
