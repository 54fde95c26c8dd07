from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from stagebox import logs


@pytest.fixture(autouse=True)
def restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level, logging.raiseExceptions
    yield
    logging.captureWarnings(False)
    structlog.reset_defaults()
    root.handlers[:], logging.raiseExceptions = before[0], before[2]
    root.setLevel(before[1])
    logs._secrets.clear()


def logged(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.fixture
def stream() -> io.StringIO:
    made = io.StringIO()
    logs.setup("info", "json", made)
    return made


def test_an_event_is_one_json_object_a_line(stream: io.StringIO) -> None:
    structlog.get_logger("rack").warning("device_lost", source="main", reason="gone\nforged")
    structlog.get_logger("rack").debug("not_shown")
    [event] = logged(stream)
    assert (event["event"], event["level"], event["logger"]) == ("device_lost", "warning", "rack")
    assert event["reason"] == "gone\\nforged"
    assert event["timestamp"].endswith("Z")


@pytest.mark.parametrize(
    "name",
    [
        "token",
        "auth_token",
        "Secret",
        "passphrase",
        "seed",
        "nkey_seed",
        "private_key",
        "api-key",
        "Authorization",
    ],
)
def test_a_value_under_a_secret_name_is_masked(stream: io.StringIO, name: str) -> None:
    structlog.get_logger().info("event", **{name: "hunter22"}, nested={"a": [{name: b"hunter22"}]})
    assert "hunter22" not in stream.getvalue()
    assert b"hunter22".hex() not in stream.getvalue()


@pytest.mark.parametrize("name", ["public_key", "source", "tokenizer", "monkey", "seq"])
def test_other_values_stay(stream: io.StringIO, name: str) -> None:
    structlog.get_logger().info("event", **{name: "plain"})
    assert logged(stream)[0][name] == "plain"


def test_a_registered_secret_is_masked_everywhere(stream: io.StringIO) -> None:
    logs.register_secret("hunter22-long")
    logs.register_secret(b"\x01\x02\x03\x04\x05\x06\x07\x08")
    logger = structlog.get_logger()
    logger.info("url wss://u:hunter22-long@h", where={"hunter22-long": ["x hunter22-long y"]})
    logger.info("raw", data=b"\x01\x02\x03\x04\x05\x06\x07\x08", hexed="0102030405060708")
    logging.getLogger("nats").error("failed with %s", "hunter22-long", extra={"more": "hunter22-long"})
    try:
        raise ValueError("refused hunter22-long")
    except ValueError:
        logger.exception("failed")
    assert len(logged(stream)) == 4
    assert "hunter22-long" not in stream.getvalue()
    assert "0102030405060708" not in stream.getvalue()


def test_a_library_logger_takes_the_same_way(stream: io.StringIO) -> None:
    logging.getLogger("uvicorn.error").warning("bad request from %s", "1.2.3.4\x1b[2J")
    [event] = logged(stream)
    assert event["event"] == "bad request from 1.2.3.4\\x1b[2J"
    assert event["logger"] == "uvicorn.error"


def test_a_traceback_keeps_its_lines_but_no_control_characters(stream: io.StringIO) -> None:
    try:
        raise ValueError("bad\x1b[31m\u202e name")
    except ValueError:
        structlog.get_logger().exception("failed")
    text = logged(stream)[0]["exception"]
    assert text.count("\n") >= 2
    assert "\x1b" not in text
    assert "\u202e" not in text


@given(st.text(max_size=60), st.text(max_size=60))
def test_nothing_from_outside_forges_a_line_on_the_console(event: str, value: str) -> None:
    out = io.StringIO()
    logs.setup("info", "console", out)
    structlog.get_logger().info("heard", what=event, more=value)
    assert len(out.getvalue().splitlines()) == 1
    assert "\x1b" not in out.getvalue()


@given(st.text(max_size=80))
def test_printable_text_stays_on_one_line_and_moves_no_cursor(text: str) -> None:
    shown = logs.printable(text)
    assert len(shown.splitlines()) <= 1
    assert not set(shown) & set("\x00\x07\x08\x1b\x7f\x9b\u202e\u2066")


def test_printable_leaves_ordinary_text_alone() -> None:
    assert logs.printable("Größe −3 dB — ok") == "Größe −3 dB — ok"


def test_a_loop_in_a_value_ends(stream: io.StringIO) -> None:
    value: list[Any] = []
    value.append(value)
    structlog.get_logger().info("event", value=value)
    assert len(logged(stream)) == 1


def test_setting_up_again_replaces_the_first(stream: io.StringIO) -> None:
    second = io.StringIO()
    logs.setup("error", "json", second)
    structlog.get_logger().warning("too_low")
    structlog.get_logger().error("seen")
    assert stream.getvalue() == ""
    assert [event["event"] for event in logged(second)] == ["seen"]
