"""Channel maps, programmes, pairs and buses come from the configuration, and what is wrong is named by its setting."""

from __future__ import annotations

from pathlib import Path

import pytest

from stagebox.config import load
from stagebox.errors import ConfigError
from stagebox_rack.audio.capture import StreamFormat
from stagebox_rack.audio_plans import bus_plans, source_plans
from stagebox_rack.metering.layout import MeterLayout, Programme
from stagebox_rack.settings import RackSettings

STAGE = """
[rack]
sources = ["main=tone:997@-20?channels=8", "spare=tone:440@-20"]
meter_rate = 10

[[rack.channels.main]]
input = 3
name = "vox-l"
group = "vox"
pan = -1.0

[[rack.channels.main]]
input = 4
name = "vox-r"
group = "vox"
pan = 1.0
gain_db = -3.0
polarity = "inverted"

[[rack.channels.main]]
input = 1
name = "kick"
"""


def settings(tmp_path: Path, text: str) -> RackSettings:
    path = tmp_path / "stagebox.toml"
    path.write_text(text)
    return load(RackSettings, config=path).settings


def layout_of(tmp_path: Path, text: str, inputs: int = 8) -> tuple[tuple[str, ...], MeterLayout]:
    plan = source_plans(settings(tmp_path, text))[0]
    mapped, layout = plan.layout(StreamFormat(48_000, inputs))
    return mapped.names, layout


def test_a_map_names_orders_groups_and_pairs(tmp_path: Path) -> None:
    names, layout = layout_of(tmp_path, STAGE)
    assert names == ("vox-l", "vox-r", "kick")
    assert [(p.name, p.channels) for p in layout.programmes] == [("vox", (0, 1))]
    assert layout.pairs == ((0, 1),)
    assert (layout.rate, layout.channels, layout.frames_per_second) == (48_000, 3, 10)


def test_without_a_map_every_input_is_a_channel_of_one_programme(tmp_path: Path) -> None:
    names, layout = layout_of(tmp_path, "", inputs=5)
    assert names == ("1", "2", "3", "4", "5")
    assert layout.programmes == (Programme("all", (0, 1, 2, 3, 4), (1.0,) * 5),)
    assert layout.pairs == ((0, 1), (2, 3))


def test_six_channels_have_the_weights_of_5_1_and_can_be_told_otherwise(tmp_path: Path) -> None:
    _, layout = layout_of(tmp_path, "", inputs=6)
    assert layout.programmes[0].weights == (1.0, 1.0, 1.0, 0.0, 1.41, 1.41)
    told = '[rack.programmes.main.pa]\nchannels = ["1", "2"]\nweights = [1.0, 0.5]\n'
    _, layout = layout_of(tmp_path, told, inputs=6)
    assert layout.programmes == (Programme("pa", (0, 1), (1.0, 0.5)),)


def test_pairs_can_be_named(tmp_path: Path) -> None:
    _, layout = layout_of(tmp_path, '[rack.pairs]\nmain = [["1", "4"]]\n', inputs=4)
    assert layout.pairs == ((0, 3),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '[[rack.channels.mian]]\ninput = 1\nname = "a"\n',
            r"rack\.channels\.mian: there is no source 'mian'",
        ),
        (
            '[[rack.channels.main]]\ninput = 0\nname = "a"\n',
            r"rack\.channels\.main\.0\.input: .*greater than",
        ),
        ('[[rack.channels.main]]\ninput = 65\nname = "a"\n', r"rack\.channels\.main\.0\.input: .*less than"),
        ('[[rack.channels.main]]\ninput = 1\nname = "Über"\n', r"rack\.channels\.main\.0\.name"),
        (
            '[[rack.channels.main]]\ninput = 1\nname = "a"\ngain_db = 99\n',
            r"rack\.channels\.main\.0\.gain_db",
        ),
        ('[[rack.channels.main]]\ninput = 1\nname = "a"\npan = 2\n', r"rack\.channels\.main\.0\.pan"),
        (
            '[[rack.channels.main]]\ninput = 1\nname = "a"\npolarity = "up"\n',
            r"rack\.channels\.main\.0\.polarity",
        ),
        ('[[rack.channels.main]]\ninput = 1\nname = "a"\ngian_db = 1\n', r"rack\.channels\.main\.0\.gian_db"),
        (
            '[[rack.channels.main]]\ninput = 1\nname = "a"\n[[rack.channels.main]]\ninput = 2\nname = "a"\n',
            r"rack\.channels\.main: two channels are named 'a'",
        ),
        ("[rack.buses.main]\nkbit = 31\n", r"rack\.buses\.main\.kbit: .*32"),
        ("[rack.buses.main]\nkbit = 257\n", r"rack\.buses\.main\.kbit: .*256"),
        ('[rack.buses.main]\nmode = "quad"\n', r"rack\.buses\.main\.mode"),
        (
            "[rack.conditions.main.silence]\nraise_db = -50\nclear_db = -60\n",
            r"rack\.conditions\.main\.silence: clear_db",
        ),
        (
            "[rack.conditions.main.dc]\nclear_db = -30\n",
            r"rack\.conditions\.main\.dc: clear_db -30 is above raise_db -40",
        ),
        ("[rack.conditions.main]\nclip_samples = 0\n", r"rack\.conditions\.main\.clip_samples"),
        (
            "[rack.conditions.spare]\nclip_samples = 2\n",
            r"rack\.conditions\.spare: there is no source 'spare'",
        ),
        ("[rack]\nmeter_rate = 0\n", r"rack\.meter_rate"),
        ("[rack]\nmeter_rate = 51\n", r"rack\.meter_rate"),
    ],
)
def test_a_wrong_setting_is_refused_by_name_before_anything_is_opened(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        source_plans(settings(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '[[rack.channels.main]]\ninput = 9\nname = "a"\n',
            r"rack\.channels\.main: channel 'a' is input 9, but",
        ),
        (
            '[rack.programmes.main.pa]\nchannels = ["9"]\n',
            r"rack\.programmes\.main\.pa: there is no channel .*'9'",
        ),
        (
            '[rack.programmes.main.pa]\nchannels = ["1", "2"]\nweights = [1.0]\n',
            r"rack\.programmes\.main\.pa has 1 weights for 2 channels",
        ),
        ('[rack.pairs]\nmain = [["1", "1"]]\n', r"rack\.pairs\.main: '1' and '1' are not two channels"),
    ],
)
def test_what_does_not_fit_the_source_is_refused_when_it_is_opened(
    tmp_path: Path, text: str, message: str
) -> None:
    plan = source_plans(settings(tmp_path, text))[0]
    with pytest.raises(ConfigError, match=message):
        plan.layout(StreamFormat(48_000, 8))


def test_conditions_can_be_tuned_and_switched_off_for_a_source(tmp_path: Path) -> None:
    text = "[rack.conditions.main]\nclip_samples = 1\n[rack.conditions.main.silence]\nraise_db = -70\nhold_s = 60\n"
    text += "[rack.conditions.main.hum]\nenabled = false\n"
    rules = source_plans(settings(tmp_path, text))[0].conditions
    assert (rules.clip_samples, rules.silence.raise_db, rules.silence.clear_db) == (1, -70.0, -55.0)
    assert (rules.silence.hold_s, rules.hum.enabled, rules.dc.enabled) == (60.0, False, True)


BUSES = (
    STAGE
    + """
[rack.buses.foh]
source = "main"
channels = ["vox", "kick"]
gains_db = {kick = -6.0}
pans = {kick = 0.0}
kbit = 128

[rack.buses.talk]
source = "spare"
mode = "mono"
"""
)


def test_each_source_has_a_bus_of_its_own_name_beside_those_that_are_configured(tmp_path: Path) -> None:
    chosen = settings(tmp_path, BUSES)
    buses = {bus.name: bus for bus in bus_plans(chosen, source_plans(chosen))}
    assert [(b.source, b.mode, b.bit_rate) for b in buses.values()] == [
        ("main", "stereo", 96_000),
        ("spare", "stereo", 96_000),
        ("main", "stereo", 128_000),
        ("spare", "mono", 96_000),
    ]
    mapped, _ = source_plans(chosen)[0].layout(StreamFormat(48_000, 8))
    mix = buses["foh"].mix(mapped)
    assert mix[0].tolist() == [1.0, 0.0]
    assert mix[1].tolist() == [0.0, 1.0]
    assert mix[2].tolist() == pytest.approx([10 ** (-6 / 20) * 2**-0.5] * 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[rack.buses.foh]\nsource = "nope"\n', r"rack\.buses\.foh\.source: there is no source 'nope'"),
        (
            '[rack.buses.foh]\nchannels = ["bass"]\n',
            r"rack\.buses\.foh\.channels: there is no channel or group 'bass'",
        ),
        (
            "[rack.buses.foh]\ngains_db = {bass = 1.0}\n",
            r"rack\.buses\.foh\.gains_db: there is no channel .* 'bass'",
        ),
        ("[rack.buses.foh]\npans = {vox = 2.0}\n", r"rack\.buses\.foh\.pans\.vox"),
    ],
)
def test_a_bus_that_cannot_be_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        chosen = settings(tmp_path, STAGE + text)
        bus_plans(chosen, source_plans(chosen))


def test_more_programmes_than_a_meter_frame_holds_are_refused(tmp_path: Path) -> None:
    text = "".join(f'[rack.programmes.main.p{n}]\nchannels = ["1"]\n' for n in range(17))
    with pytest.raises(ConfigError, match="17 programmes; a source has at most 16"):
        source_plans(settings(tmp_path, text))[0].layout(StreamFormat(48_000, 2))
