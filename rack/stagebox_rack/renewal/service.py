"""Renews the rack's identity while it runs: does what the schedule says, and tells when it cannot.

What is asked is repeated byte for byte until it is answered. Whoever renews holds the renewal lock, so that the
systemd timer and the rack never do it twice. No answer, forged or genuine, that refuses changes anything: it is
reported, and asked again later.
"""

from __future__ import annotations

import asyncio
import datetime
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random, SystemRandom
from typing import Any

import structlog
from nacl.signing import SigningKey

from stagebox import subjects
from stagebox.bus import BusClient
from stagebox.control.fields import NONCE_BYTES
from stagebox.control.request import Verb
from stagebox.errors import BusError, StageboxError, VerificationError
from stagebox_rack.identity import trust
from stagebox_rack.identity.lock import InUseError, locked
from stagebox_rack.identity.store import Held, Issued
from stagebox_rack.identity.takeover import Takeover
from stagebox_rack.limits import LIMITS
from stagebox_rack.mixer_http import MixerAddress, parse_mixer_url
from stagebox_rack.renewal import exchange, https, operator_command
from stagebox_rack.renewal.exchange import Exchange, RenewalRefused
from stagebox_rack.renewal.schedule import Life, RenewalSchedule, Situation, Via, due_at
from stagebox_rack.settings import RackSettings
from stagebox_rack.state import RackIdentity, StatePaths

log = structlog.get_logger()

Report = Callable[[str, dict[str, Any]], None]
_PROBLEM_CHARS = 200


@dataclass(frozen=True)
class RenewalPolicy:
    """How this rack renews."""

    rekey: bool = False
    command: tuple[str, ...] = ()
    command_timeout: float = LIMITS.renew_command_timeout
    mixer: MixerAddress | None = None

    @classmethod
    def of(cls, settings: RackSettings) -> RenewalPolicy:
        """Return what the settings say."""
        return cls(
            rekey=settings.rekey_on_renewal,
            command=settings.renew_command,
            command_timeout=settings.renew_command_timeout,
            mixer=parse_mixer_url(settings.mixer_url, "rack.mixer_url") if settings.mixer_url else None,
        )

    @property
    def managed_by(self) -> str:
        """Who renews the certificate: ``mixer`` or ``operator``."""
        return "operator" if self.command else "mixer"

    def mixers(self, identity: RackIdentity) -> tuple[MixerAddress, ...]:
        """Return the addresses to renew at over HTTPS."""
        if self.mixer is not None:
            return (self.mixer,)
        return tuple(parse_mixer_url(url, "the API address in snake.json") for url in identity.api)


@dataclass(frozen=True)
class Edges:
    """The clocks and the random source."""

    wall: Callable[[], float] = time.time
    random: Random = field(default_factory=SystemRandom)


class RenewalService:
    """The renewals of one running rack."""

    def __init__(
        self,
        takeover: Takeover,
        bus: BusClient,
        paths: StatePaths,
        policy: RenewalPolicy,
        *,
        event: Report,
        alert: Report,
        edges: Edges | None = None,
    ) -> None:
        self._takeover = takeover
        self._bus = bus
        self._paths = paths
        self._policy = policy
        self._event = event
        self._alert = alert
        self._edges = edges or Edges()
        self._schedule = RenewalSchedule(life_of(takeover.held.newest), random=self._edges.random)
        self._exchange: Exchange | None = None
        self._turn = 0
        self._alerted_at: float | None = None
        self.problem = ""

    def facts(self) -> dict[str, Any]:
        """Return what a heartbeat says of renewal."""
        return {
            "managed_by": self._policy.managed_by,
            "renewal_due": int(self._schedule.due_at),
            "renewal_overdue": self._edges.wall() >= self._schedule.overdue_at,
            "renewal_problem": self.problem,
        }

    async def run(self) -> None:
        """Renew when it is due, until cancelled."""
        while True:
            self._takeover.changed.clear()
            self._follow()
            now, situation = self._edges.wall(), self._situation()
            plan = self._schedule.plan(now, situation)
            if plan.overdue:
                self._warn(now)
            if plan.via is None:
                await self._pause(plan.wait)
            else:
                await self._attempt(plan.via)

    def _situation(self) -> Situation:
        return Situation(self._bus.connected, self._takeover.refused_since)

    def _follow(self) -> None:
        """Notice a certificate that came by another way: staged by another process, or enrolled anew."""
        life = life_of(self._takeover.held.newest)
        if life != self._schedule.life:
            self._schedule.renewed(life, self._edges.wall())
            self._exchange, self.problem, self._alerted_at = None, "", None

    async def _attempt(self, via: Via) -> None:
        try:
            with locked(self._paths.renewal_lock):
                await self._takeover.look()
                if life_of(self._takeover.held.newest) != self._schedule.life:
                    return
                await self._renew(via)
        except InUseError:
            await self._pause(LIMITS.identity_poll)
        except StageboxError as error:
            self._failed(via, error)
        except OSError as error:  # a full disk, say: the next attempt may find it otherwise
            self._failed(via, BusError(f"the renewal failed: {error.strerror or error}"))
        except Exception as error:  # whatever it is, a rack that cannot renew still captures
            log.error("renewal_error", exc_info=error)
            self._failed(via, BusError(f"the renewal failed: {type(error).__name__}"))

    async def _renew(self, via: Via) -> None:
        if self._policy.command and not (self._refused() or self._passport_due()):
            issued = await self._by_command()
        elif via is Via.SNAKE:
            issued = await self._over_snake()
        else:
            issued = await self._over_https()
        self._exchange, self.problem, self._alerted_at, self._turn = None, "", None, 0
        self._schedule.renewed(life_of_chain(issued), self._edges.wall())
        log.info("renewed", serial=issued.passport.serial, via=self._policy.managed_by + ":" + via.value)

    def _refused(self) -> bool:
        """Whether it is the mixer who has to give something new: no certificate would change its mind."""
        since = self._takeover.refused_since
        expired = self._edges.wall() >= self._schedule.life.ends
        if since is None or expired:
            return False
        return not 0 <= self._edges.wall() - since < LIMITS.renew_refused_for

    def _passport_due(self) -> bool:
        """Whether the passport, which only the mixer issues, is due too."""
        passport = self._takeover.held.newest.passport
        return self._edges.wall() >= due_at(Life(passport.issued_at / 1e9, passport.not_after / 1e9), 0.0)

    async def _by_command(self) -> Issued:
        identity = self._takeover.held.newest
        pem = await operator_command.run(self._policy.command, identity, timeout=self._policy.command_timeout)
        return await self._takeover.take(
            lambda held: exchange.accept_operator_chain(pem, held=held.newest, now=self._now())
        )

    async def _over_snake(self) -> Issued:
        asked = self._ask()
        subject = subjects.request(asked.request.rack, Verb.RENEW.value)
        answer = await self._bus.request(subject, asked.data, timeout=LIMITS.renew_request_timeout)
        serial = await asyncio.to_thread(trust_serial, self._paths, asked.presented)
        return await self._takeover.take(lambda held: self._accept(asked, answer.payload, held, serial))

    async def _over_https(self) -> Issued:
        asked = self._ask()
        held = self._takeover.held
        mixers = self._policy.mixers(asked.presented)
        serial = await asyncio.to_thread(trust_serial, self._paths, asked.presented)

        def exchanged() -> bytes:
            def believed(data: bytes) -> bytes:
                self._accept(asked, data, held, serial)
                return data

            return https.renew(mixers, held.main.roots_pem, asked.data, believed)

        answer = await asyncio.to_thread(exchanged)
        # Verified again against what is held by then: a command may have brought a newer passport meanwhile.
        return await self._takeover.take(lambda held: self._accept(asked, answer, held, serial))

    def _ask(self) -> Exchange:
        presentable = self._takeover.held.all
        presented = presentable[self._turn % len(presentable)]
        # A key that waits to be proved is not replaced by another: one change at a time.
        rekey = self._policy.rekey and self._takeover.held.staged is None
        now_ns = int(self._edges.wall() * 1e9)
        asked = self._exchange
        # An answer that was lost is still good; one that is refused for an hour is not waited for any more.
        stale = asked is not None and now_ns - asked.request.time_ns > LIMITS.renew_repeat_for * 1_000_000_000
        if asked is None or stale or not asked.fits(presented, rekey=rekey):
            new_key = SigningKey.generate() if rekey else None
            nonce = os.urandom(NONCE_BYTES)
            asked = self._exchange = exchange.begin(presented, new_key=new_key, nonce=nonce, now_ns=now_ns)
        return asked

    def _accept(self, asked: Exchange, data: bytes, held: Held, serial: int) -> Issued:
        return exchange.accept(
            asked, data, held=held, machine_id=self._takeover.machine_id, trust_serial=serial, now=self._now()
        )

    def _now(self) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(self._edges.wall(), datetime.UTC)

    def _failed(self, via: Via, error: StageboxError) -> None:
        if isinstance(error, RenewalRefused):
            # It was answered: the next request is another one, and presents the other identity, if there are two.
            self._exchange, self._turn = None, self._turn + 1
        elif isinstance(error, VerificationError):
            self._turn += 1
        now = self._edges.wall()
        retry = self._schedule.failed(now, self._situation())
        problem = error.message[:_PROBLEM_CHARS]
        detail = {"via": via.value, "reason": problem, "retry_s": round(retry - now, 1)}
        if problem != self.problem:
            self._event("renewal_failed", detail)
        else:
            log.info("renewal_failed_again", **detail)
        self.problem = problem

    def _warn(self, now: float) -> None:
        if self._alerted_at is not None and 0 <= now - self._alerted_at < LIMITS.renew_alert_repeat:
            return
        if self._alerted_at is None and not self.problem and now < self._schedule.life.ends:
            return  # it has not been tried yet
        self._alerted_at = now
        detail = {"not_after": int(self._schedule.life.ends), "reason": self.problem}
        self._alert("certificate_expiring", detail)

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._takeover.changed.wait()
        except TimeoutError:
            return


def life_of(identity: RackIdentity) -> Life:
    """Return the life of an identity's certificate."""
    return _life(identity.chain)


def life_of_chain(issued: Issued) -> Life:
    """Return the life of a new certificate."""
    return _life(issued.chain)


def _life(chain: Sequence[Any]) -> Life:
    leaf = chain[0]
    return Life(leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp())


def trust_serial(paths: StatePaths, identity: RackIdentity) -> int:
    """Return the serial of the trust bundle held, 0 for none.

    Raises:
        StorageError: it cannot be read.
    """
    found = trust.load_bundle(paths, identity.passport.cluster_public)
    return found[1].serial if found is not None else 0
