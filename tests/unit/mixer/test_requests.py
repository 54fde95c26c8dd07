"""Which requests the desk takes: envelope, subject and reply subject must speak of the same rack."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import SigningKey

from stagebox.control.request import Request, Verb
from stagebox_mixer.requests import RequestRefused, check_request

KEY = SigningKey(bytes(32))
SUBJECT, REPLY = "rack.stage-left.req.renew", "_INBOX_rack_stage-left.aB3.x-_9"


def request(rack: str = "stage-left", verb: str = "renew") -> bytes:
    return Request("flux-prod", rack, verb, bytes(16), 1, {}).seal(KEY)


def code(subject: str = SUBJECT, reply: str = REPLY, data: bytes | None = None) -> str:
    with pytest.raises(RequestRefused) as caught:
        check_request(subject, reply, request() if data is None else data)
    return caught.value.code


@pytest.mark.parametrize("verb", list(Verb))
def test_a_request_that_agrees_with_its_subject_and_inbox_is_taken(verb: Verb) -> None:
    subject = f"rack.stage-left.req.{verb.value}"
    assert check_request(subject, REPLY, request(verb=verb.value)) == ("stage-left", verb)


@pytest.mark.parametrize(
    "reply",
    [
        "", "_INBOX_rack_stage-left", "_INBOX_rack_stage-left.", "_INBOX_rack_stage-right.a", "_INBOX.a",
        "_INBOX_rack_stage-left2.a", "_INBOX_rack_stage-left.*", "_INBOX_rack_stage-left.>",
        "_INBOX_rack_stage-left.a..b", "_INBOX_rack_stage-left.a b", "_INBOX_rack_stage-left.a\r\nPUB x 0",
        "rack.stage-left.status", "mixer.cmd.stage-left", "$JS.API.INFO", "x._INBOX_rack_stage-left.a",
        "_INBOX_rack_stage-left.a\n", "_INBOX_client_stage-left.a",
    ],
)  # fmt: skip
def test_an_answer_goes_into_the_racks_own_inbox_and_nowhere_else(reply: str) -> None:
    assert code(reply=reply) == "reply_subject"


def test_a_request_in_another_racks_name_or_for_another_verb_is_refused() -> None:
    assert code(data=request("stage-right")) == "other_rack"
    assert code(data=request(verb="sync")) == "other_verb"
    assert code("rack.stage-left.req.time", data=request(verb="time")) == "unknown_verb"


@pytest.mark.parametrize(
    "subject",
    ["rack.stage-left.status", "rack.stage-left.req", "rack.x.y.req.renew", "mixer.cmd.stage-left", ""],
)
def test_what_is_no_requests_subject_is_refused(subject: str) -> None:
    assert code(subject) == "malformed"


@given(st.binary(max_size=300))
def test_garbage_is_malformed(data: bytes) -> None:
    assert code(data=data) == "malformed"
