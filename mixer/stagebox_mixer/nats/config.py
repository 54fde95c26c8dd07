"""The configuration file of the embedded nats-server, as text. Pure.

Operator mode with an auth callout: the server knows the operator and three accounts by their tokens, and asks
the mixer about every connection. A client that brings no credentials file is taken for the sentinel, which may
do nothing, and so reaches the callout.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

JETSTREAM_KEY_ENV = "STAGEBOX_JETSTREAM_KEY"


@dataclass(frozen=True)
class Listener:
    """Where a port is opened; port 0 lets the server choose one."""

    host: str
    port: int


@dataclass(frozen=True)
class NatsServerConfig:
    """All that the file says. ``accounts`` maps account id to its token."""

    server_name: str
    operator_jwt: str
    system_account: str
    accounts: dict[str, str]
    sentinel_jwt: str
    store_dir: Path
    ports_dir: Path
    loopback: Listener
    snake: Listener
    certificate: Path
    key: Path
    client_ca: Path


def render(config: NatsServerConfig) -> str:
    """Return the file's text. Secrets are not in it: the JetStream key comes by the environment."""
    preload = "\n".join(f"  {account}: {_text(token)}" for account, token in config.accounts.items())
    return f"""\
# Written by the mixer at every start; changes here are lost.
server_name: {_text(config.server_name)}
listen: {_text(_address(config.loopback))}
ports_file_dir: {_text(str(config.ports_dir))}
max_payload: 1048576
write_deadline: "5s"
ping_interval: "10s"
ping_max: 2

operator: {_text(config.operator_jwt)}
system_account: {config.system_account}
resolver: MEMORY
resolver_preload: {{
{preload}
}}
default_sentinel: {_text(config.sentinel_jwt)}

jetstream: {{
  store_dir: {_text(str(config.store_dir))}
  cipher: aes
  key: ${JETSTREAM_KEY_ENV}
  sync_interval: always
}}

websocket: {{
  host: {_text(config.snake.host)}
  port: {config.snake.port or -1}
  compression: false
  handshake_timeout: "5s"
  tls: {{
    cert_file: {_text(str(config.certificate))}
    key_file: {_text(str(config.key))}
    ca_file: {_text(str(config.client_ca))}
    verify: true
    min_version: "1.3"
    timeout: 5
  }}
}}
"""


def _text(value: str) -> str:
    # JSON strings are a subset of the server's quoted strings.
    return json.dumps(value)


def _address(listener: Listener) -> str:
    return f"{listener.host}:{listener.port or -1}"
