"""A renewal over HTTPS: for a rack whose certificate has ended, or whom admission refuses. Blocking.

The server must prove itself to the rack's own roots; the rack proves itself by what the request holds, so no client
certificate is shown. What comes back is bytes to verify, whatever the status says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from stagebox.errors import BusError, DecodeError, StageboxError, VerificationError
from stagebox.tls import client_context
from stagebox_rack import mixer_http
from stagebox_rack.limits import LIMITS
from stagebox_rack.mixer_http import OCTETS, MixerAddress, UnreachableError
from stagebox_rack.renewal.exchange import RenewalRefused

PATH = "/api/v1/racks/renew"
REMEDY = "check the network; set rack.mixer_url to https://<host>:8443 of a mixer"

T = TypeVar("T")


def post(mixer: MixerAddress, roots_pem: bytes, data: bytes) -> bytes:
    """Post a request envelope to one mixer; return the answer envelope, unverified.

    Raises:
        BusError: it does not answer like a mixer. TlsError: our roots cannot be used.
    """
    try:
        status, answer = mixer_http.call(
            mixer, "POST", PATH, client_context(roots_pem), body=data,
            headers={"Content-Type": OCTETS, "Accept": OCTETS}, max_bytes=LIMITS.renew_answer_bytes,
        )  # fmt: skip
    except UnreachableError as error:
        raise BusError(error.message, remedy=REMEDY) from None
    if not 0 < len(answer) <= LIMITS.renew_answer_bytes:
        raise BusError(
            f"{mixer.url} does not answer like a mixer (status {status}, {len(answer)} bytes)", remedy=REMEDY
        )
    return answer


def renew(mixers: Sequence[MixerAddress], roots_pem: bytes, data: bytes, accept: Callable[[bytes], T]) -> T:
    """Ask the mixers in turn and return what ``accept`` makes of the first answer it believes.

    Raises:
        RenewalRefused: a mixer refuses, under its signature. BusError, VerificationError: the last mixer's fault,
            when none renews.
    """
    problem: StageboxError = BusError("no address of a mixer's API is known", remedy=REMEDY)
    for mixer in mixers:
        try:
            return accept(post(mixer, roots_pem, data))
        except RenewalRefused:
            raise
        except DecodeError as error:
            problem = BusError(
                f"{mixer.url} does not answer like a mixer that renews: {error.message}",
                remedy="upgrade the mixer, or set rack.mixer_url to https://<host>:8443 of another",
            )
        except (BusError, VerificationError) as error:
            problem = error
    raise problem
