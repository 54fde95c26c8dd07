from __future__ import annotations

import errno
import socket
import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagebox.bus.causes import (
    Cause,
    ClosedByPeer,
    CredentialsUnavailable,
    NotABus,
    ServerError,
    SilentPeer,
    classify,
)
from stagebox.bus.supervisor import CauseLog
from stagebox.errors import BusError, TlsError


def verify_error(code: int, message: str = "no") -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, f"[SSL: CERTIFICATE_VERIFY_FAILED] {message}")
    error.verify_code = code
    error.verify_message = message
    return error


def alert(reason: str) -> ssl.SSLError:
    return ssl.SSLError(1, f"[SSL: {reason}] something (_ssl.c:2580)")


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (verify_error(19), Cause.UNKNOWN_CA),
        (verify_error(20), Cause.UNKNOWN_CA),
        (verify_error(10), Cause.SERVER_CERTIFICATE_EXPIRED),
        (verify_error(62), Cause.HOSTNAME_MISMATCH),
        (verify_error(64), Cause.HOSTNAME_MISMATCH),
        (verify_error(24), Cause.SERVER_CERTIFICATE_INVALID),
        (alert("SSLV3_ALERT_CERTIFICATE_EXPIRED"), Cause.CLIENT_CERTIFICATE_EXPIRED),
        (alert("TLSV13_ALERT_CERTIFICATE_REQUIRED"), Cause.CLIENT_CERTIFICATE_REFUSED),
        (alert("TLSV1_ALERT_UNKNOWN_CA"), Cause.CLIENT_CERTIFICATE_REFUSED),
        (alert("TLSV1_ALERT_PROTOCOL_VERSION"), Cause.TLS_VERSION),
        (alert("WRONG_VERSION_NUMBER"), Cause.NOT_TLS),
        (alert("SOMETHING_NEW"), Cause.TLS_HANDSHAKE),
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), Cause.CONNECTION_REFUSED),
        (ConnectionResetError(errno.ECONNRESET, "reset"), Cause.CLOSED_BY_PEER),
        (OSError(errno.EHOSTUNREACH, "no route"), Cause.UNREACHABLE),
        (socket.gaierror(socket.EAI_NONAME, "unknown name"), Cause.NAME_NOT_FOUND),
        (TimeoutError(), Cause.TIMED_OUT),
        (ServerError("authorization violation"), Cause.AUTHORIZATION_REFUSED),
        (ServerError("user authentication expired"), Cause.AUTHORIZATION_EXPIRED),
        (ServerError("maximum connections exceeded"), Cause.REFUSED_BY_SERVER),
        (SilentPeer("2 pings"), Cause.PEER_SILENT),
        (ClosedByPeer("bye"), Cause.CLOSED_BY_PEER),
        (NotABus("HTTP 404"), Cause.NOT_A_BUS),
        (CredentialsUnavailable("our token"), Cause.LOCAL),
        (ZeroDivisionError("x"), Cause.OTHER),
    ],
)
def test_each_known_failure_has_its_cause(error: Exception, cause: Cause) -> None:
    assert classify(error).cause is cause


def test_the_tls_error_behind_a_library_error_is_the_cause() -> None:
    try:
        try:
            raise verify_error(20, "unable to get local issuer certificate")
        except ssl.SSLError as inner:
            raise ConnectionError("cannot connect") from inner
    except ConnectionError as outer:
        failure = classify(outer, "wss://mixer:4222")
    assert failure.cause is Cause.UNKNOWN_CA
    assert "unable to get local issuer" in failure.detail


def test_a_deadline_does_not_hide_the_refusal_that_led_to_it() -> None:
    try:
        try:
            raise alert("SSLV3_ALERT_CERTIFICATE_EXPIRED")
        except ssl.SSLError:
            raise TimeoutError from None
    except TimeoutError as outer:
        assert classify(outer).cause is Cause.CLIENT_CERTIFICATE_EXPIRED


def test_certificate_faults_are_tls_errors_with_a_remedy_and_others_are_bus_errors() -> None:
    tls_error = classify(verify_error(62), "wss://mixer:4222").as_error()
    assert isinstance(tls_error, TlsError) and tls_error.remedy and "wss://mixer:4222" in tls_error.message
    refused = classify(ConnectionRefusedError(errno.ECONNREFUSED, "refused")).as_error()
    assert type(refused) is BusError and refused.remedy


def test_an_exception_that_is_its_own_context_is_classified() -> None:
    error = ValueError("loop")
    error.__cause__ = error
    assert classify(error).cause is Cause.OTHER


@given(st.lists(st.sampled_from([Cause.TIMED_OUT, Cause.CONNECTION_REFUSED, None]), max_size=60))
def test_a_cause_is_logged_once_until_it_changes_or_the_connection_recovers(
    events: list[Cause | None],
) -> None:
    log, last, repeated = CauseLog(), None, 0
    for event in events:
        if event is None:
            assert log.recovered() == repeated
            last, repeated = None, 0
            continue
        assert log.observe(event) == (event is not last)
        repeated = repeated + 1 if event is last else 1
        last = event
