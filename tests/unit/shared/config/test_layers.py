from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, ClassVar

import pytest
from pydantic import Field, SecretStr

from stagebox.config import CommaList, Origin, SectionSettings, UserPath, load
from stagebox.config.client import ClientSettings
from stagebox.config.layers import MASK
from stagebox.errors import ConfigError


class DeskSettings(SectionSettings):
    section: ClassVar[str] = "desk"

    port: Annotated[int, Field(ge=1, le=65535)] = 8443
    name: str = "desk"
    listen: CommaList = ("127.0.0.1",)
    home: UserPath = Path("~/desk")
    api_token: SecretStr | None = None
    shared_secret: str = ""
    token_file: Path | None = None


@pytest.fixture(autouse=True)
def empty_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No configuration file and no variable of the machine the tests run on."""
    for variable in list(os.environ):
        if variable.startswith("STAGEBOX_"):
            monkeypatch.delenv(variable)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    yield


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_every_layer_wins_over_the_one_below(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "f.toml", '[desk]\nport = 1\nname = "file"\nlisten = ["::1"]\n')
    monkeypatch.setenv("STAGEBOX_DESK_PORT", "2")
    monkeypatch.setenv("STAGEBOX_DESK_NAME", "env")
    loaded = load(DeskSettings, {"port": 3, "name": None}, config=file)
    assert (loaded.settings.port, loaded.settings.name, loaded.settings.listen) == (3, "env", ("::1",))
    assert loaded.origins["port"] == Origin("flag", "--port")
    assert loaded.origins["name"] == Origin("env", "STAGEBOX_DESK_NAME")
    assert loaded.origins["listen"] == Origin("file", str(file))
    assert loaded.origins["home"] == Origin("default")


def test_constructing_a_section_directly_reads_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAGEBOX_DESK_PORT", "2")
    monkeypatch.setenv("PORT", "3")
    assert DeskSettings().port == 8443


def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAGEBOX_DESK_PORT", "")
    assert load(DeskSettings).origins["port"] == Origin("default")


def test_lists_are_written_with_commas_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAGEBOX_DESK_LISTEN", "127.0.0.1, ::1,")
    assert load(DeskSettings).settings.listen == ("127.0.0.1", "::1")


def test_a_tilde_is_the_home_directory(tmp_path: Path) -> None:
    assert load(DeskSettings).settings.home == tmp_path / "home" / "desk"


def test_only_the_first_file_that_exists_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = write(tmp_path / "home/.config/stagebox/stagebox.toml", "[desk]\nport = 10\n")
    assert load(DeskSettings).origins["port"] == Origin("file", str(home))
    write(tmp_path / "cwd/stagebox.toml", "[desk]\nport = 20\n")
    assert load(DeskSettings).settings.port == 20
    monkeypatch.setenv("STAGEBOX_CONFIG", str(write(tmp_path / "v.toml", "[desk]\nport = 30\n")))
    assert load(DeskSettings).settings.port == 30
    named = write(tmp_path / "n.toml", "[desk]\nport = 40\n")
    assert load(DeskSettings, config=named).settings.port == 40


def test_a_named_file_must_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml, which --config names"):
        load(DeskSettings, config=tmp_path / "absent.toml")
    monkeypatch.setenv("STAGEBOX_CONFIG", str(tmp_path / "gone.toml"))
    with pytest.raises(ConfigError, match=r"gone\.toml, which STAGEBOX_CONFIG names"):
        load(DeskSettings)


@pytest.mark.parametrize(
    ("text", "complaint", "remedy"),
    [
        ("[desk]\nprot = 1\n", r"\[desk\] has no setting 'prot'", "did you mean port?"),
        ("[clinet]\nmixer = 1\n", r"no section \[clinet\]", "did you mean client?"),
        ("port = 1\n", "'port' stands outside a section", "put it under its section"),
        ("[client]\nmixr = 1\n", r"\[client\] has no setting 'mixr'", "did you mean mixer?"),
        ("[desk\n", "is not TOML", None),
        ('[desk]\nport = "x"\n', r"desk\.port: .*valid integer.*\(from file ", "config show"),
        ("[desk]\nport = 0\n", r"desk\.port: .*greater than or equal to 1", "config show"),
    ],
)
def test_a_wrong_file_is_explained(tmp_path: Path, text: str, complaint: str, remedy: str | None) -> None:
    with pytest.raises(ConfigError, match=complaint) as refused:
        load(DeskSettings, config=write(tmp_path / "f.toml", text))
    if remedy is not None:
        assert remedy in str(refused.value.remedy)


def test_a_file_may_hold_sections_of_distributions_that_are_elsewhere(tmp_path: Path) -> None:
    file = write(tmp_path / "f.toml", '[client]\nmixer = "https://m:8443"\n[desk]\nport = 5\n')
    assert load(DeskSettings, config=file).settings.port == 5


@pytest.mark.parametrize(
    ("variable", "nearest"),
    [
        ("STAGEBOX_DESK_PROT", "did you mean STAGEBOX_DESK_PORT?"),
        ("STAGEBOX_CLIENT_MIXR", "did you mean STAGEBOX_CLIENT_MIXER?"),
        ("STAGEBOX_KLIENT_MIXER", "STAGEBOX_CLIENT_"),
        ("STAGEBOX_CONFG", "did you mean STAGEBOX_CONFIG?"),
    ],
)
def test_a_variable_nobody_knows_is_an_error(
    monkeypatch: pytest.MonkeyPatch, variable: str, nearest: str
) -> None:
    monkeypatch.setenv(variable, "1")
    with pytest.raises(ConfigError, match=variable) as refused:
        load(DeskSettings)
    assert nearest in str(refused.value.remedy)


def test_a_wrong_value_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAGEBOX_DESK_PORT", "http")
    with pytest.raises(ConfigError, match=r"desk\.port: .*\(from env STAGEBOX_DESK_PORT\)"):
        load(DeskSettings)


def test_a_wrong_secret_is_not_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = write(tmp_path / "f.toml", '[desk]\napi_token = ["hunter22"]\n')
    with pytest.raises(ConfigError) as refused:
        load(DeskSettings, config=file)
    assert "hunter22" not in f"{refused.value.message}{refused.value.remedy}"


def test_secrets_are_masked_and_handed_to_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAGEBOX_DESK_API_TOKEN", "hunter22")
    monkeypatch.setenv("STAGEBOX_DESK_SHARED_SECRET", "swordfish")
    loaded = load(DeskSettings, {"token_file": "/run/token"})
    shown = loaded.shown()
    assert (shown["api_token"], shown["shared_secret"]) == (MASK, MASK)
    assert shown["token_file"] == "/run/token"
    assert sorted(loaded.secrets()) == ["hunter22", "swordfish"]


def test_a_secret_that_is_not_set_is_shown_as_such() -> None:
    assert load(DeskSettings).shown()["api_token"] is None


def test_a_flag_that_is_no_field_is_a_mistake_in_the_program() -> None:
    with pytest.raises(TypeError, match="prot"):
        load(DeskSettings, {"prot": 1})


@pytest.mark.parametrize("url", ["http://mixer:8443", "ftp://mixer", "mixer:8443"])
def test_the_client_refuses_a_mixer_without_tls(url: str) -> None:
    with pytest.raises(ConfigError, match=r"client\.mixer: .*https"):
        load(ClientSettings, {"mixer": url})


def test_the_client_refuses_a_snake_without_tls() -> None:
    with pytest.raises(ConfigError, match=r"client\.servers: 'ws://a'"):
        load(ClientSettings, {"servers": "wss://b,ws://a"})
