"""Reading the servers' lists of connections: nothing that stays is missed, however the lists shift meanwhile."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagebox.bus import BusMessage
from stagebox.errors import BusError, DecodeError
from stagebox_mixer.connections import Connections, LiveConnection, Page, Pages, parse_page, parse_servers


def connection(cid: int) -> LiveConnection:
    return LiveConnection("NA", cid, "rack:a", "")


@given(
    start=st.integers(0, 60),
    limit=st.integers(2, 9),
    data=st.data(),
)
def test_every_connection_that_stays_is_seen(start: int, limit: int, data: st.DataObject) -> None:
    live = list(range(1, start + 1))
    stays = set(live)
    following = start + 1
    pages, seen, offset = Pages(limit, limit // 2), set[int](), 0
    for _ in range(400):
        page = Page("NA", offset, tuple(connection(cid) for cid in live[offset : offset + limit]))
        seen |= {item.cid for item in page.connections}
        following_offset = pages.next_offset(page)
        if following_offset is None:
            break
        offset = following_offset
        # Between two answers some end, at any place, and some come, at the end.
        gone = set(data.draw(st.lists(st.sampled_from(live), max_size=limit * 2))) if live else set()
        stays -= gone
        live = [cid for cid in live if cid not in gone]
        if data.draw(st.booleans()):
            live.append(following)
            following += 1
    else:
        raise AssertionError("the reading does not end")
    assert stays <= seen


def test_a_list_that_fits_one_page_takes_one_question() -> None:
    assert Pages(4, 2).next_offset(Page("NA", 0, (connection(1), connection(9)))) is None
    assert Pages(4, 2).next_offset(Page("NA", 0, ())) is None


ANSWER = {
    "server": {"id": "NA"},
    "data": {
        "server_id": "NA",
        "offset": 0,
        "connections": [
            {
                "cid": 7,
                "authorized_user": "rack:stage-left",
                "tls_peer_certs": [{"cert_sha256": "ab" * 32}, {"cert_sha256": "cd" * 32}],
            },
            {"cid": 8},
        ],
    },
}


def test_an_answer_says_user_and_leaf_certificate() -> None:
    page = parse_page(json.dumps(ANSWER).encode())
    first, second = page.connections
    assert (first.server_id, first.cid, first.user) == ("NA", 7, "rack:stage-left")
    assert first.certificate == "sha256:" + "ab" * 32
    assert (second.user, second.certificate) == ("", "")


def test_an_answer_that_is_an_error_or_malformed_is_no_empty_list() -> None:
    with pytest.raises(BusError, match="no account"):
        parse_page(json.dumps({"error": {"code": 400, "description": "no account"}}).encode())
    for answer in (b"", b"[]", b"{}", b'{"data": {}}', b'{"data": {"server_id": "N", "offset": 0}}',
                   b'{"data": {"server_id": 1, "offset": 0, "connections": []}}',
                   b'{"data": {"server_id": "N", "offset": 0, "connections": [{}]}}',
                   b'{"data": {"server_id": "N", "offset": 0, "connections": [{"cid": 1, "tls_peer_certs": [{}]}]}}',
                   ):  # fmt: skip
        with pytest.raises(DecodeError):
            parse_page(answer)


def test_the_number_of_servers_comes_from_their_statistics() -> None:
    assert parse_servers(b'{"statsz": {"active_servers": 3}}') == 3
    for answer in (b"{}", b'{"statsz": {}}', b'{"statsz": {"active_servers": 0}}', b"x"):
        with pytest.raises(DecodeError):
            parse_servers(answer)


class _Servers:
    """A bus whose servers answer when the test says so."""

    def __init__(self) -> None:
        self.replies: list[str] = []
        self.asked = asyncio.Event()

    async def subscribe(self, _pattern: str, callback: Any) -> None:
        self.answer = callback

    def publish(self, _subject: str, _query: bytes, *, reply: str) -> bool:
        self.replies.append(reply)
        self.asked.set()
        return True


async def test_a_cancellation_that_comes_together_with_an_answer_is_not_lost() -> None:
    servers = _Servers()
    looking = asyncio.create_task(Connections(servers, "A").live())  # type: ignore[arg-type]
    await servers.asked.wait()
    await asyncio.sleep(0)
    statistics = json.dumps({"statsz": {"active_servers": 1}}).encode()
    servers.answer(BusMessage(servers.replies[0], statistics, "", None))
    await asyncio.sleep(0)
    looking.cancel()
    await asyncio.wait({looking}, timeout=0.1)
    assert looking.cancelled()
