from __future__ import annotations
from pathlib import Path
import time
from support.cluster import Cluster, running_mixer
from support.rackside import rack_options, connected


async def test_a(cluster: Cluster, tmp_path: Path) -> None:
    t = time.monotonic()
    async with running_mixer(cluster, tmp_path / "data") as mixer:
        print("start", time.monotonic() - t)
        t = time.monotonic()
        ident = await mixer.enroll(tmp_path / "rack", "stage-left")
        print("enroll", time.monotonic() - t)
        t = time.monotonic()
        async with connected(rack_options(ident)) as bus:
            print("connect", time.monotonic() - t)
            print(bus.transport_facts())
        print(await mixer.audit_rows())
        t = time.monotonic()
    print("stop", time.monotonic() - t)
