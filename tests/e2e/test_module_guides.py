"""The guides to modules, run as written against a real mixer and rack. Ports differ."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from stagebox.identity import Role
from support.cluster import Cluster, running_mixer
from support.guide import Adapted, GuideRunner, Step, parse
from support.racks import running_rack

GUIDES = Path(__file__).parents[2] / "docs" / "guides"
SHIPPED = """
<!-- run -->
```sh
stagebox keys gen-vendor --owner acme --out vendor --module 'acme-*' --no-passphrase
install -m 600 vendor/vendor.toml data/wasm/keys/acme.toml
stagebox wasm new acme-gain --lang wat
stagebox wasm build acme-gain
stagebox wasm sign acme-gain/acme-gain.wasm --key vendor/vendor.key
stagebox wasm import acme-gain/acme-gain.signed.wasm
stagebox wasm assign acme-gain@0.1.0 --id quieter --rack stage-left --point meters --source main
```
"""
"""What has happened before a module is revoked."""


def steps_of(guide: str) -> list[Step]:
    before = parse(SHIPPED) if guide == "revoking-a-module.md" else []
    return before + parse((GUIDES / guide).read_text("utf-8"))


@pytest.mark.parametrize("guide", ["first-module.md", "vendor-programme.md", "revoking-a-module.md"])
async def test_a_guide_to_modules_goes_as_written(cluster: Cluster, tmp_path: Path, guide: str) -> None:
    directory = tmp_path / "play"
    directory.mkdir()
    steps = steps_of(guide)
    assert any(step.verb == "run" for step in steps)
    async with running_mixer(cluster, tmp_path / "data") as mixer:
        await mixer.enroll(tmp_path / "rack", "stage-left")
        (directory / "data").symlink_to(tmp_path / "data")
        (tmp_path / "data" / "wasm" / "keys").mkdir(parents=True, exist_ok=True, mode=0o700)
        environment = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(directory),
            "TERM": "dumb",
            "COLUMNS": "220",
            "STAGEBOX_CLIENT_MIXER": mixer.https,
            "STAGEBOX_CLIENT_SERVERS": mixer.snake,
            "STAGEBOX_CLIENT_IDENTITY": str(mixer.cluster.client(Role.ADMIN)),
        }
        runner = GuideRunner(directory, environment, Adapted(mixer.mixer.https_port, mixer.mixer.snake_port))
        try:
            async with running_rack(tmp_path / "rack") as rack:
                assert rack.mode == "running"
                for step in steps:
                    await asyncio.to_thread(runner.run, step)
        finally:
            runner.end()
