"""The configuration file of nats-server: nothing a name or path holds can change its meaning."""

from __future__ import annotations

import json
import re
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from stagebox_mixer.nats.config import Listener, NatsServerConfig, render


def config(**changes: object) -> NatsServerConfig:
    values: dict[str, object] = {
        "server_name": "flux-mixer",
        "operator_jwt": "o.p.j",
        "system_account": "ASYS",
        "accounts": {"ASYS": "s.y.s", "AAUTH": "a.u.t"},
        "sentinel_jwt": "s.e.n",
        "store_dir": Path("/data/jetstream"),
        "ports_dir": Path("/data/run"),
        "loopback": Listener("127.0.0.1", 0),
        "snake": Listener("0.0.0.0", 4222),
        "certificate": Path("/data/run/server.pem"),
        "key": Path("/data/run/server.key"),
        "client_ca": Path("/data/run/client-ca.pem"),
        **changes,
    }
    return NatsServerConfig(**values)  # type: ignore[arg-type]


def test_the_doors_are_as_the_security_model_says() -> None:
    text = render(config())
    for line in (
        "verify: true",
        'min_version: "1.3"',
        "cipher: aes",
        "sync_interval: always",
        'listen: "127.0.0.1:-1"',
        "port: 4222",
        "resolver: MEMORY",
        'default_sentinel: "s.e.n"',
    ):
        assert re.search(rf"^\s*{re.escape(line)}$", text, re.MULTILINE), line


def test_the_storage_key_comes_by_the_environment_only() -> None:
    assert re.search(r"^\s*key: \$STAGEBOX_JETSTREAM_KEY$", render(config()), re.MULTILINE)


@given(st.text(max_size=60))
def test_a_path_stays_one_quoted_string(text: str) -> None:
    directory = Path("/data") / text.replace("\0", "")
    rendered = render(config(store_dir=directory))
    plain = render(config())
    (line,) = [line for line in rendered.splitlines() if line.lstrip().startswith("store_dir:")]
    assert json.loads(line.split("store_dir: ", 1)[1]) == str(directory)
    assert len(rendered.splitlines()) == len(plain.splitlines())
