"""Every configuration that a guide shows is one that a rack takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stagebox.config import load
from stagebox_rack.audio.capture import StreamFormat
from stagebox_rack.audio_plans import bus_plans, source_plans
from stagebox_rack.settings import RackSettings

GUIDES = Path(__file__).parents[3] / "docs" / "guides"
BLOCKS = [
    (path.name, block)
    for path in sorted(GUIDES.glob("*.md"))
    for block in re.findall(r"```toml\n(.*?)```", path.read_text("utf-8"), re.DOTALL)
    if "[rack]" in block
]


@pytest.mark.parametrize(
    ("guide", "block"), BLOCKS, ids=[f"{name}-{n}" for n, (name, _) in enumerate(BLOCKS)]
)
def test_a_configuration_in_a_guide_is_taken(tmp_path: Path, guide: str, block: str) -> None:
    file = tmp_path / "stagebox.toml"
    file.write_text(block, "utf-8")
    settings = load(RackSettings, config=file).settings
    plans = source_plans(settings)
    for plan in plans:
        mapped, layout = plan.layout(StreamFormat(48_000, 8))
        assert len(mapped.names) == layout.channels
    assert bus_plans(settings, plans)


def test_the_guides_show_some() -> None:
    assert {name for name, _ in BLOCKS} >= {"meters.md", "choosing-latency.md", "usb-interface.md"}
