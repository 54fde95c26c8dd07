"""The systemd units: accepted by systemd, as hardened as documented, and in step with the code they start."""

from __future__ import annotations

import configparser
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import stagebox.errors as errors
from stagebox.config.registry import settings_class

UNITS = Path(__file__).parents[3] / "deploy" / "systemd"
README = UNITS.parent / "README.md"
SERVICES = ("stagebox-mixer", "stagebox-rack")
RENEWAL = "stagebox-rack-renew"
UNITS_OF_OURS = (*SERVICES, RENEWAL)
SECTION = {"stagebox-mixer": "mixer", "stagebox-rack": "rack", RENEWAL: "rack"}

# Exposure as `systemd-analyze security` counts it, times ten. deploy/README.md states the same figures.
EXPOSURE = {"stagebox-mixer": 13, "stagebox-rack": 17, RENEWAL: 13}


@pytest.fixture(scope="module")
def analyze() -> str:
    found = shutil.which("systemd-analyze")
    assert found, "systemd-analyze is missing: apt-get install -y --no-install-recommends systemd"
    return found


def unit(name: str) -> dict[str, list[tuple[str, str]]]:
    """Section → (key, value) in order; keys repeat in unit files, which configparser does not allow."""
    sections: dict[str, list[tuple[str, str]]] = {}
    for line in (UNITS / f"{name}.service").read_text().splitlines():
        if line.startswith("["):
            current = sections.setdefault(line.strip("[]"), [])
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            current.append((key, value))
    return sections


def setting(name: str, key: str) -> str:
    values = [value for found, value in unit(name)["Service"] if found == key]
    assert values, f"{name} does not say {key}"
    return values[-1]


def installed(tmp_path: Path, name: str) -> Path:
    """A copy of the unit whose ExecStart names a program that exists here; nothing else is changed."""
    program = Path(sys.executable).with_name("stagebox")
    assert program.is_file()
    text = (UNITS / f"{name}.service").read_text()
    copy = tmp_path / f"{name}.service"
    copy.write_text(text.replace("/opt/stagebox/bin/stagebox", str(program)))
    return copy


@pytest.mark.parametrize("name", UNITS_OF_OURS)
def test_systemd_accepts_the_unit_without_a_word(analyze: str, tmp_path: Path, name: str) -> None:
    done = subprocess.run(
        [analyze, "verify", "--recursive-errors=no", str(installed(tmp_path, name))],
        capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert done.returncode == 0
    assert [line for line in done.stderr.splitlines() if name in line] == []


def test_the_check_above_finds_a_misspelt_setting(analyze: str, tmp_path: Path) -> None:
    copy = installed(tmp_path, "stagebox-rack")
    copy.write_text(copy.read_text().replace("ProtectSystem=strict", "ProtectSytem=strict"))
    done = subprocess.run(
        [analyze, "verify", "--recursive-errors=no", str(copy)], capture_output=True, text=True, timeout=30
    )
    assert "ProtectSytem" in done.stderr


@pytest.mark.parametrize("name", UNITS_OF_OURS)
def test_the_exposure_stays_at_the_documented_score(analyze: str, tmp_path: Path, name: str) -> None:
    def security(threshold: int) -> subprocess.CompletedProcess[str]:
        command = [analyze, "security", "--offline=true", "--no-pager", f"--threshold={threshold}"]
        return subprocess.run(
            [*command, str(installed(tmp_path, name))], capture_output=True, text=True, timeout=30
        )

    assert security(EXPOSURE[name]).returncode == 0
    assert security(EXPOSURE[name] - 1).returncode != 0, "the units got better: lower EXPOSURE and the README"
    assert f"{EXPOSURE[name] / 10:.1f}" in README.read_text()


@pytest.mark.parametrize("name", UNITS_OF_OURS)
def test_the_service_may_not_become_root_or_change_the_system(name: str) -> None:
    assert setting(name, "User") not in ("", "root")
    for key, value in {
        "NoNewPrivileges": "yes", "ProtectSystem": "strict", "ProtectHome": "yes", "CapabilityBoundingSet": "",
        "RestrictSUIDSGID": "yes", "RestrictNamespaces": "yes", "UMask": "0077", "StateDirectoryMode": "0700",
    }.items():  # fmt: skip
        assert setting(name, key) == value


def test_a_rack_sees_sound_devices_and_no_others() -> None:
    assert setting("stagebox-rack", "DevicePolicy") == "closed"
    assert [v for k, v in unit("stagebox-rack")["Service"] if k == "DeviceAllow"] == ["char-alsa rw"]
    assert setting("stagebox-rack", "SupplementaryGroups") == "audio"


def test_what_only_a_person_can_repair_is_not_restarted() -> None:
    stop = {int(code) for code in setting("stagebox-rack", "RestartPreventExitStatus").split()}
    tree = (errors.ConfigError, errors.KeyFileError, errors.VerificationError, errors.PassportError)
    assert stop == {error.exit_code for error in tree}
    # A device, a disk or a mixer that comes back must find the rack trying.
    assert stop.isdisjoint({e.exit_code for e in (errors.CaptureError, errors.StorageError, errors.BusError)})
    mixer = {int(code) for code in setting("stagebox-mixer", "RestartPreventExitStatus").split()}
    assert mixer == {errors.KeyFileError.exit_code}


@pytest.mark.parametrize("name", SERVICES)
def test_restarts_are_never_given_up(name: str) -> None:
    assert setting(name, "Restart") == "always"
    assert ("StartLimitIntervalSec", "0") in unit(name)["Unit"]


@pytest.mark.parametrize("name", UNITS_OF_OURS)
def test_the_command_and_its_environment_are_ones_the_software_knows(name: str) -> None:
    command = setting(name, "ExecStart").split()[1:]
    done = subprocess.run(
        [sys.executable, "-m", "stagebox.cli", *command[command.index(SECTION[name]) :], "--help"],
        capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert done.returncode == 0
    for key, value in unit(name)["Service"]:
        if key == "Environment":
            section, field = re.fullmatch(r"STAGEBOX_([A-Z]+)_(\w+)=.*", value).groups()  # type: ignore[union-attr]
            assert field.lower() in settings_class(section.lower()).model_fields


def test_the_example_configuration_is_accepted(tmp_path: Path) -> None:
    text = (UNITS / "stagebox.toml").read_text()
    assert set(tomllib.loads(text)) == {"mixer", "rack", "log"}
    done = subprocess.run(
        [sys.executable, "-m", "stagebox.cli", "--config", str(UNITS / "stagebox.toml"), "config", "show", "--json"],
        capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["rack"]["wait_for_enrollment"]["value"] is True
    assert shown["mixer"]["public_names"]["value"] == ["mixer.example.org"]


def test_the_renewal_works_on_the_racks_own_state_and_only_once_there_is_an_identity() -> None:
    for key in ("User", "StateDirectory", "Environment"):
        assert setting(RENEWAL, key) == setting("stagebox-rack", key)
    assert setting(RENEWAL, "Type") == "oneshot"
    assert ("ConditionPathExists", "/var/lib/stagebox/state.flux") in unit(RENEWAL)["Unit"]


def test_the_renewal_timer_is_accepted_and_spreads_a_fleet(analyze: str, tmp_path: Path) -> None:
    installed(tmp_path, RENEWAL)
    timer = Path(shutil.copy(UNITS / f"{RENEWAL}.timer", tmp_path))
    done = subprocess.run(
        [analyze, "verify", "--recursive-errors=no", str(timer)], capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, [line for line in done.stderr.splitlines() if RENEWAL in line]) == (0, [])
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(timer)
    assert "RandomizedDelaySec" in parser["Timer"]
    assert parser["Install"]["WantedBy"] == "timers.target"


def test_every_user_of_a_unit_is_made_by_sysusers() -> None:
    lines = (UNITS / "stagebox.sysusers.conf").read_text().splitlines()
    made = {line.split()[1] for line in lines if line.startswith("u ")}
    assert made == {setting(name, "User") for name in SERVICES}


@pytest.mark.parametrize("drop_in", ["restart-backoff", "encrypted-passphrase"])
def test_drop_ins_hold_a_service_section_of_known_settings(
    analyze: str, tmp_path: Path, drop_in: str
) -> None:
    service = installed(tmp_path, "stagebox-mixer")
    directory = tmp_path / "stagebox-mixer.service.d"
    directory.mkdir()
    shutil.copy(UNITS / f"{drop_in}.conf", directory)
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.read(directory / f"{drop_in}.conf")
    assert parser.sections() == ["Service"]
    done = subprocess.run(
        [analyze, "verify", "--recursive-errors=no", str(service)], capture_output=True, text=True, timeout=30
    )
    complaints = [line for line in done.stderr.splitlines() if drop_in in line]
    version = int(re.search(r"\d+", subprocess.check_output([analyze, "--version"], text=True)).group())  # type: ignore[union-attr]
    if drop_in == "restart-backoff" and version < 254:
        assert len(complaints) == 2, "the two newer keys are ignored, and only those"
        assert all("Restart" in line for line in complaints)
    else:
        assert complaints == []
